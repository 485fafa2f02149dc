"""`--input-format stream-json`: lines of standard input -> messages, control requests, bad lines.

The shapes are those that programs driving Claude Code and qwen-code write. A newline alone ends a
line, since JSON text may hold any other line separator.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO

from qcode.protocol.values import dataclass

MAX_LINE_BYTES = 16 << 20
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class UserInput:
    """A prompt: one turn."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRequest:
    """A question or order of the program at the other end; it wants one answer with its `id`."""

    id: str
    subtype: str
    fields: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class BadLine:
    """A line that is neither; `problem` says why, for the person who wrote the program."""

    problem: str


Input = UserInput | ControlRequest | BadLine


def parse_line(line: bytes) -> Input | None:
    """None for what asks for nothing: a blank line, or an answer to a question of ours."""
    if not line.strip():
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        shown = line[:_MAX_SHOWN].decode("utf-8", "backslashreplace")
        return BadLine(problem=f"not JSON ({type(error).__name__}): {shown.strip()!r}")
    if not isinstance(value, dict):
        return BadLine(problem=f"not a JSON object but {type(value).__name__}")
    match value.get("type"):
        case "user":
            return _user(value.get("message"))
        case "control_request":
            return _control(value)
        case "control_response" | "control_cancel_request":
            return None
        case kind:
            return BadLine(problem=f"a line is of type user or control_request, not {kind!r}")


def _user(message: object) -> Input:
    if not isinstance(message, dict) or message.get("role", "user") != "user":
        return BadLine(problem='a user line needs {"message": {"role": "user", "content": ...}}')
    content = message.get("content")
    if isinstance(content, str):
        text = content
    elif isinstance(content, list):
        parts = [_block_text(block) for block in content]
        if None in parts:
            return BadLine(problem="only blocks of type text can be read")
        text = "\n".join(part for part in parts if part)
    else:
        return BadLine(problem="content is neither text nor a list of blocks")
    return UserInput(text=text) if text.strip() else BadLine(problem="the message is empty")


def _block_text(block: object) -> str | None:
    if isinstance(block, dict) and block.get("type") == "text":
        text = block.get("text")
        return text if isinstance(text, str) else None
    return None


def _control(value: dict[str, object]) -> Input:
    request_id, request = value.get("request_id"), value.get("request")
    if not isinstance(request_id, str) or not isinstance(request, dict):
        return BadLine(problem="a control_request needs request_id and request")
    return ControlRequest(id=request_id, subtype=str(request.get("subtype")), fields=request)


def read_lines(stream: BinaryIO) -> Iterator[bytes | BadLine]:
    """The lines of a stream, without their end. A line that is too long is passed over."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        if len(line) <= MAX_LINE_BYTES or line.endswith(b"\n"):
            yield line.removesuffix(b"\n")
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)
        yield BadLine(problem=f"longer than {MAX_LINE_BYTES >> 20} MiB")


def deliver_inputs(descriptor: int, receive: Callable[[Input | None], None]) -> None:
    """Calls `receive` on this event loop for each line, and with None at the end.

    A thread of its own waits for the input, since a file can only be read, not waited for; it is
    a daemon, because nothing can wake it when the program ends. It reads by a stream of its own:
    the interpreter cannot end while `sys.stdin` is being read.
    """
    loop = asyncio.get_running_loop()

    def read() -> None:
        # The loop is closed when the program ends before its input.
        with contextlib.suppress(RuntimeError):
            # What cannot be read is as good as its end.
            with contextlib.suppress(OSError), os.fdopen(os.dup(descriptor), "rb") as stream:
                for number, line in enumerate(read_lines(stream), start=1):
                    parsed = parse_line(line) if isinstance(line, bytes) else line
                    if isinstance(parsed, BadLine):
                        parsed = BadLine(problem=f"line {number}: {parsed.problem}")
                    if parsed is not None:
                        loop.call_soon_threadsafe(receive, parsed)
            loop.call_soon_threadsafe(receive, None)

    threading.Thread(target=read, name="standard input", daemon=True).start()
