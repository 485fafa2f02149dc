"""Keep a text's head and tail within a limit; say what was left out. Pure."""

from __future__ import annotations


def limit_text(text: str, max_chars: int, *, tail_chars: int | None = None) -> str:
    """At most `max_chars` characters of `text` plus one line of note, cut at line ends where they
    are near. `tail_chars` of them (default: half) are kept from the end."""
    if len(text) <= max_chars:
        return text
    tail_length = max_chars // 2 if tail_chars is None else min(tail_chars, max_chars)
    head = text[: max_chars - tail_length]
    tail = text[len(text) - tail_length :]
    head = head[: head.rfind("\n", len(head) - 200) + 1] or head
    cut = tail.find("\n", 0, 200)
    tail = tail[cut + 1 :] if cut >= 0 else tail
    omitted = text[len(head) : len(text) - len(tail)]
    join = "" if head.endswith("\n") or not head else "\n"
    return (
        f"{head}{join}[... {len(omitted)} characters, {omitted.count(chr(10))} lines "
        f"left out ...]\n{tail}"
    )


def limit_line(line: str, max_chars: int) -> str:
    if len(line) <= max_chars:
        return line
    return f"{line[:max_chars]}… [{len(line) - max_chars} more characters]"
