"""Records a command in a real terminal and draws its last screen as an SVG.

    python docs/record.py docs/images/demo.svg qcode demo

The command runs in a pty of 92 columns; a terminal emulator (pyte) keeps what a person would see.
"""

from __future__ import annotations

import io
import itertools
import re
import sys
from pathlib import Path

import pyte
from ptyprocess import PtyProcess
from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.text import Text

COLUMNS, ROWS = 92, 400


def record(command: list[str]) -> pyte.Screen:
    """Runs the command to its end and returns the screen it leaves."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    process = PtyProcess.spawn(command, dimensions=(ROWS, COLUMNS))
    try:
        while True:
            data = process.read(65536)
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            stream.feed(data)
    except EOFError:
        pass
    process.wait()
    return screen


def screen_text(screen: pyte.Screen) -> Text:
    """The screen's lines with their colours, without the empty ones at the end."""
    lines = []
    for row in range(ROWS):
        line = Text()
        cells = [screen.buffer[row][column] for column in range(COLUMNS)]
        for style, run in itertools.groupby(cells, _style):
            line.append("".join(cell.data for cell in run), style)
        line.rstrip()
        lines.append(line)
    while lines and not lines[-1].plain:
        lines.pop()
    return Text("\n").join(lines)


def _style(cell: Char) -> Style:
    color = None if cell.fg == "default" else _color(cell.fg)
    return Style(color=color, bold=cell.bold)


def _color(name: str) -> str:
    if len(name) == 6 and all(digit in "0123456789abcdef" for digit in name):
        return f"#{name}"
    return {"brown": "yellow", "bfightmagenta": "bright_magenta"}.get(name, name)


def main() -> None:
    target, *command = sys.argv[1:]
    title = " ".join(command)
    text = screen_text(record(["env", "TERM=xterm-256color", *command]))
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(text)
    # The picture must not fetch a font from anywhere: the reader's own will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=title), flags=re.DOTALL)
    Path(target).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
