"""The one filter between foreign text and a terminal.

Model text, tool output, file names and error messages may hold bytes that move the cursor, set the
window title, write the clipboard or turn the reading direction. What `printable` returns can only
be read: line feeds and tabs are its only control characters.
"""

from __future__ import annotations

import re
import unicodedata

MAX_LINE = 4000

# ECMA-48: OSC, DCS, SOS, PM and APC strings run to their terminator; CSI ends in a final byte;
# other escapes are ESC, intermediates and one final byte. C1 has one-byte forms of each. A string
# without its terminator loses only its introducer: hiding the rest would hide text on purpose.
_SEQUENCE = re.compile(
    r"(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x90-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|\x1b[ -/]+[0-~]"
    r"|\x1b[0-Z\\^_`a-~]"
)
_UNSAFE = re.compile(r"[^\n\t\x20-\x7e]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str, *, max_line: int = MAX_LINE) -> str:
    """The text with escape sequences and control characters dropped, format characters (bidi,
    zero-width, tags) and line separators shown as `<U+202E>`, undecodable bytes as `\\xNN`, and
    lines longer than `max_line` characters cut with a note."""
    if _UNSAFE.search(text):
        text = _SEQUENCE.sub("", text.replace("\r\n", "\n"))
        text = _CONTROL.sub("", text)
        text = _UNSAFE.sub(_visible, text)
    if len(text) <= max_line:
        return text
    return "\n".join(_cut(line, max_line) for line in text.split("\n"))


def _visible(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte smuggled through `surrogateescape`
        return f"\\x{code - 0xDC00:02x}"
    hidden = unicodedata.category(character) in {"Cf", "Cs", "Zl", "Zp"} or 0x115F <= code <= 0x1160
    return f"<U+{code:04X}>" if hidden else character


def _cut(line: str, max_line: int) -> str:
    if len(line) <= max_line:
        return line
    return f"{line[:max_line]}… [{len(line) - max_line} more characters]"
