"""What the decisions table does not show: the parts they are made of."""

from __future__ import annotations

import pytest

from qcode.agent.command_flags import Flags, accepts, long_names
from qcode.agent.safe_commands import is_safe, wrapped_command, wrapped_commands
from qcode.protocol.permissions import SimpleCommand

FLAGS = Flags(
    letters="ab",
    valued="n",
    longs=long_names("all"),
    long_values=long_names("lines"),
    numeric=True,
    max_operands=1,
)


@pytest.mark.parametrize(
    ("arguments", "accepted"),
    [
        ("", True),
        ("-ab x", True),
        ("-n 5 x", True),
        ("-n5", True),
        ("-an5 x", True),
        ("-20", True),
        ("--all", True),
        ("--all=yes", True),
        ("--lines 5 x", True),
        ("--lines=5", True),
        ("-", True),
        ("-- -z", True),
        ("-z", False),
        ("-az", False),
        ("--al", False),
        ("--line=5", False),
        ("x y", False),
        ("x -- y", False),
    ],
)
def test_only_known_flags_pass(arguments: str, accepted: bool) -> None:
    assert accepts(FLAGS, tuple(arguments.split())) is accepted


def test_a_word_that_may_expand_is_no_flag_and_stays_away_from_programs_that_heed_it() -> None:
    def expanding(*argv: str) -> SimpleCommand:
        return SimpleCommand(argv=argv, expands=(len(argv) - 1,))

    assert is_safe(expanding("cat", "*.py"))
    assert not is_safe(expanding("cat", "-*"))
    for argv in (("git", "log", "*"), ("find", "*"), ("sed", "-n", "1p", "*"), ("sort", "*")):
        assert not is_safe(expanding(*argv))


@pytest.mark.parametrize(
    ("line", "inner"),
    [
        ("timeout 5 ls", ("ls",)),
        ("timeout --signal=INT 1.5m ls -l", ("ls", "-l")),
        ("timeout -s INT 5 ls", None),
        ("timeout 5", None),
        ("time -p ls", ("ls",)),
        ("nice -n 5 ls", ("ls",)),
        ("nohup ls", ("ls",)),
        ("stdbuf -o0 ls", None),
        ("sudo ls", None),
        ("xargs ls", None),
        ("ls", None),
    ],
)
def test_what_a_wrapper_certainly_runs(line: str, inner: tuple[str, ...] | None) -> None:
    assert wrapped_command(tuple(line.split())) == inner


def test_what_a_wrapper_may_run() -> None:
    assert ("rm", "x") in wrapped_commands(("sudo", "-u", "root", "rm", "x"))
    assert ("rm", "{}", ";") in wrapped_commands(("find", ".", "-exec", "rm", "{}", ";"))
    assert wrapped_commands(("ls", "rm")) == []
