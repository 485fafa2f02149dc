"""Writes docs/reference/cli.md from the help texts: `python docs/command_line.py [--check]`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from typer.core import TyperGroup
from typer.main import get_command

from qcode.cli.app import COMMANDS

PAGE = Path(__file__).parent / "reference" / "cli.md"
INTRODUCTION = """# Command line

Made from the commands' own `--help` by `python docs/command_line.py`.

## Exit codes

| code | meaning |
|---|---|
| 0 | completed |
| 1 | failed, or no answer in the asked-for form |
| 2 | command-line usage |
| 41 | authentication |
| 42 | bad input: no prompt, unreadable standard input, no such session |
| 44 | a sandbox is required but not available |
| 52 | configuration |
| 53 | turn limit |
| 55 | another budget: time, tokens, tool calls |
| 60 | the `--verify` command still fails |
| 75 | the model endpoint failed and a retry may help |
| 130 | interrupted |
| 128+n | another signal; 141 where nobody reads standard output any more |
"""


def commands() -> Iterator[tuple[str, ...]]:
    """All commands by the words that call them, in the order of the help."""
    yield ()
    for name, (module, _) in COMMANDS.items():
        yield (name,)
        command = get_command(import_module(module).command)
        if isinstance(command, TyperGroup):
            for below in command.commands:
                yield (name, below)


def help_text(command: tuple[str, ...]) -> str:
    environment = {**os.environ, "COLUMNS": "90", "NO_COLOR": "1", "TERM": "dumb"}
    arguments = [sys.executable, "-m", "qcode", *command, "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


def page() -> str:
    sections = [INTRODUCTION]
    for command in commands():
        name = " ".join(("qcode", *command))
        sections.append(f"## {name}\n\n```text\n{help_text(command)}\n```\n")
    return "\n".join(sections)


def main() -> None:
    text = page()
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != text:
        sys.exit("docs/reference/cli.md is not what --help says: python docs/command_line.py")


if __name__ == "__main__":
    main()
