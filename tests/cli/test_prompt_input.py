"""The prompt from an argument, from standard input, or from both."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from qcode.cli.prompt_input import MAX_BYTES, read_prompt
from qcode.protocol.errors import BadInput


def quiet(text: str) -> None:
    raise AssertionError(f"said {text!r}")


@contextmanager
def piped(data: bytes) -> Iterator[IO[str]]:
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    with os.fdopen(read) as stream:
        yield stream


def test_the_argument_alone() -> None:
    assert read_prompt("fix it", None, quiet) == "fix it"
    with Path(os.devnull).open() as nothing:
        assert read_prompt("fix it", nothing, quiet) == "fix it"


@pytest.mark.parametrize("argument", [None, "-"])
def test_standard_input_alone(argument: str | None) -> None:
    with piped("\ufefffixé\n".encode()) as stdin:
        assert read_prompt(argument, stdin, quiet) == "fixé\n"


def test_both_together() -> None:
    with piped(b"log line\n\n") as stdin:
        assert read_prompt("explain", stdin, quiet) == "explain\n\n<stdin>\nlog line\n</stdin>"
    with piped(b" \n") as stdin:
        assert read_prompt("explain", stdin, quiet) == "explain"


def test_a_file_as_standard_input(tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("from a file")
    with file.open() as stdin:
        assert "from a file" in read_prompt("read", stdin, quiet)


def test_a_terminal_is_only_read_when_asked_to() -> None:
    person, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin:
        with pytest.raises(BadInput, match="no prompt"):
            read_prompt(None, stdin, quiet)
        assert read_prompt("fix", stdin, quiet) == "fix"
        os.write(person, b"typed\n\x04")
        assert read_prompt("-", stdin, quiet) == "typed\n"
    os.close(person)


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "empty"), (b"  \n", "empty"), (b"\xff\xfe", "UTF-8"), (b"a\0b", "binary")],
)
def test_what_is_no_prompt(data: bytes, says: str) -> None:
    with piped(data) as stdin, pytest.raises(BadInput, match=says):
        read_prompt(None, stdin, quiet)


def test_too_much(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * (MAX_BYTES + 1))
    with file.open() as stdin, pytest.raises(BadInput, match="4 MiB"):
        read_prompt(None, stdin, quiet)
