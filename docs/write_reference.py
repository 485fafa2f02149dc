"""Writes docs/reference from the program itself: `python docs/write_reference.py [--check]`."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from typer.core import TyperGroup
from typer.main import get_command

from qcode.cli.app import COMMANDS, create_command
from qcode.config.settings import Settings
from qcode.config.sources import NEVER_FROM_PROJECT

REFERENCE = Path(__file__).parent / "reference"
INTRODUCTION = """# Command line

Made from the commands' own `--help` by `python docs/write_reference.py`.

## Exit codes

| code | meaning |
|---|---|
| 0 | completed |
| 1 | failed, or no answer in the asked-for form |
| 2 | command-line usage |
| 41 | authentication |
| 42 | bad input: no prompt, unreadable standard input, no such session or schema |
| 44 | a sandbox is required but not available |
| 52 | configuration |
| 53 | turn limit |
| 55 | another budget: time, tokens, cost, tool calls |
| 60 | the `--verify` command still fails |
| 75 | the model endpoint failed and a retry may help |
| 130 | interrupted |
| 128+n | another signal; 141 where nobody reads standard output any more |
"""

SETTINGS = """# Settings

`qcode settings` shows every value and where it comes from. The strongest source wins:

1. flags of the command line;
2. environment variables: `QCODE_` and the name in capitals, as `QCODE_MAX_TURNS=40`; also
   `OPENAI_BASE_URL`, `OPENAI_API_KEY` and `OPENAI_MODEL`. A variable with rules holds one a line;
3. `.qcode/config.toml` of the folder, if the folder is trusted;
4. your own `~/.config/qcode/config.toml` (`$XDG_CONFIG_HOME` and `QCODE_HOME` move it);
5. the defaults below.

The rules in `allow`, `ask` and `deny` add up over all sources. A wrong key or value anywhere stops
qcode with exit code 52 and names the place: a deny rule with a typing error would be a hole.

## Trust

A folder's `.qcode/config.toml` is read only after `qcode settings trust`, or for one run with
`--trust` or `QCODE_TRUST=1`; until then it is ignored, with a notice. Even then it may never set
FORBIDDEN, and of the modes only `plan`. The mode `yolo` comes from a flag or the
environment only.

`AGENTS.md` files of the folder you start qcode in are read without that: they are words to the
model, and what they lead it to do still goes through the permissions.

## All settings

| name | default | meaning |
|---|---|---|
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


def help_text(words: tuple[str, ...]) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        create_command().main(args=[*words, "--help"], prog_name="qcode")
    return shown.getvalue().strip()


def command_line() -> str:
    sections = [INTRODUCTION]
    for command in commands():
        name = " ".join(("qcode", *command))
        sections.append(f"## {name}\n\n```text\n{help_text(command)}\n```\n")
    return "\n".join(sections)


def settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = Settings().model_dump(mode="json")[name]
        shown = "-" if default in (None, []) else f"`{default}`"
        rows.append(f"| `{name}` | {shown} | {field.description} |\n")
    forbidden = ", ".join(f"`{name}`" for name in sorted(NEVER_FROM_PROJECT))
    return SETTINGS.replace("FORBIDDEN", forbidden) + "".join(rows)


def main() -> None:
    os.environ |= {"COLUMNS": "90", "NO_COLOR": "1", "TERM": "dumb"}
    pages = {"cli.md": command_line(), "settings.md": settings()}
    for name, text in pages.items():
        page = REFERENCE / name
        if "--check" not in sys.argv:
            page.write_text(text, encoding="utf-8")
        elif page.read_text(encoding="utf-8") != text:
            sys.exit(f"docs/reference/{name} is out of date: python docs/write_reference.py")


if __name__ == "__main__":
    main()
