from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcode.protocol.permissions import SimpleCommand
from qcode.tools.shell_syntax import MAX_COMMANDS, MAX_LINE_BYTES, analyse
from qcode.tools.shell_words import Word, resolve_word


@pytest.mark.parametrize(
    ("source", "value", "expands"),
    [
        ("plain", "plain", False),
        ("'a b'", "a b", False),
        ('"a b"', "a b", False),
        ("a\\ b\"c\"'d'", "a bcd", False),
        (r'"a\"b\$c\d"', r'a"b$c\d', False),
        (r"$'a\n\x41\u00e9\''", "a\nAé'", False),
        ('$"text"', "text", False),
        ('"cost: 5$"', "cost: 5$", False),
        ("a$", "a$", False),
        ("*.py", "*.py", True),
        ("'*.py'", "*.py", False),
        ("a?", "a?", True),
        ("[ab]", "[ab]", True),
        ("{a,b}", "{a,b}", True),
        ("{1..3}", "{1..3}", True),
        ("HEAD@{1}", "HEAD@{1}", False),
        ("~/x", "~/x", True),
        ("HEAD~2", "HEAD~2", False),
        ("a=~/x", "a=~/x", True),
        ('""', "", False),
    ],
)
def test_words_have_the_value_that_the_shell_gives_them(
    source: str, value: str, expands: bool
) -> None:
    assert resolve_word(source) == Word(value, expands)


@pytest.mark.parametrize(
    "source",
    ["$x", "${x}", '"$x"', "$(x)", "`x`", '"`x`"', "$1", "$?", "'open", '"open', "a\\", "$'open",
     r"$'\x00'", r"$'\xff'", r"$'\cA'", "$[1]", "$!"],
)  # fmt: skip
def test_what_only_the_shell_knows_has_no_value(source: str) -> None:
    assert resolve_word(source) is None


PIECES = st.lists(
    st.sampled_from(
        ["a", "'", '"', "\\", "$'", "\\'", '\\"', "\\n", "\\\\", "é", "x y", ";", "#", "=", "\\x41",
         "\\101", "$"]
    ),
    max_size=8,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES.map("".join), min_size=8, max_size=8))
def test_bash_agrees_about_every_word_that_has_a_value(sources: list[str]) -> None:
    for source in sources:
        # Where the whole line is one command of two words, its second is this source.
        line = f"printf {source}"
        analysis = analyse(line)
        if analysis.opaque or len(analysis.commands) != 1 or len(analysis.commands[0].argv) != 2:
            continue
        value = analysis.commands[0].argv[1]
        done = subprocess.run(
            ["bash", "-c", f"printf '<%s>' {source}"], capture_output=True, check=True, timeout=10
        )
        assert done.stdout.decode() == f"<{value}>"


def commands(line: str) -> list[tuple[str, ...]]:
    return [command.argv for command in analyse(line).commands]


def test_a_line_is_taken_apart() -> None:
    analysis = analyse("cd 'a b' && git diff --stat | head -5; wc < in 2>&1 >/dev/null >> out")
    assert analysis.opaque is None
    assert analysis.commands == (
        SimpleCommand(argv=("cd", "a b")),
        SimpleCommand(argv=("git", "diff", "--stat")),
        SimpleCommand(argv=("head", "-5")),
        SimpleCommand(argv=("wc",), reads_from=("in",), writes_to=("out",)),
    )


@pytest.mark.parametrize(
    ("line", "argv", "writes_to"),
    [
        ("ls > a b", ("ls", "b"), ("a",)),
        (">f ls x", ("ls", "x"), ("f",)),
        ("ls 2>&1 tests", ("ls", "tests"), ()),
        ("ls && rm > /dev/null -rf x", ("rm", "-rf", "x"), ()),
        ("ls | tee x > y", ("tee", "x"), ("y",)),
        ("ls >| a &>> b", ("ls",), ("a", "b")),
    ],
)
def test_redirections_belong_to_the_last_command_and_leave_it_its_words(
    line: str, argv: tuple[str, ...], writes_to: tuple[str, ...]
) -> None:
    analysis = analyse(line)
    assert analysis.opaque is None
    last = analysis.commands[-1]
    assert (last.argv, last.writes_to) == (argv, writes_to)


def test_expanding_words_are_marked() -> None:
    assert analyse("cat a *.py '*.c'").commands == (
        SimpleCommand(argv=("cat", "a", "*.py", "*.c"), expands=(2,)),
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ls $(rm x)", "substitution"),
        ("ls \\\n rm x", "backslash"),
        ("ls\r", "U+000D"),
        ("ls\u202e", "U+202E"),
        ("ls\u00a0x", "U+00A0"),
        ("ls (", "not valid"),
        ("ls # x", "comment"),
        ("A=1 ls", "assignment"),
        ("LANG=$(x) ls", ""),
        ("ls & ", "background"),
        ("for x in a; do ls; done", "loop"),
        ("bash -c ls", "script"),
        ("cat <<E\nx\nE", "here-document"),
        ("cat > $X", "file that only the shell knows"),
        ("*/ls", "command name"),
        ("(" * 60 + "ls" + ")" * 60, ""),
        ("ls;" * (MAX_COMMANDS + 2), "more than"),
        ("ls " + "x" * MAX_LINE_BYTES, "longer than"),
    ],
)
def test_what_is_not_understood_says_why(line: str, reason: str) -> None:
    opaque = analyse(line).opaque
    assert opaque is not None
    assert reason in opaque or (reason == "substitution" and "only the shell" in opaque)


@pytest.mark.parametrize(
    "line",
    [
        "echo $(rm x)",
        "echo `rm x`",
        'echo "a $(rm x)"',
        "cat <(rm x)",
        "cat < <(rm x)",
        "cat > >(rm x)",
        "A=$(rm x) ls",
        "A=$(rm x)",
        "echo ${A:-$(rm x)}",
        "echo $((1 + $(rm x)))",
        "for i in $(rm x); do ls; done",
        "while rm x; do ls; done",
        "if rm x; then ls; fi",
        "case $(rm x) in a) ls;; esac",
        "f() { rm x; }",
        "(rm x)",
        "{ rm x; }",
        "! rm x",
        "cat <<E\n$(rm x)\nE",
        "bash <<E\nrm x\nE",
        "bash <<< 'rm x'",
        "bash -c 'rm x'",
        "bash -lc 'rm x'",
        "bash -x -c 'rm x'",
        "/bin/sh -c 'rm x'",
        "timeout 5 bash -c 'rm x'",
        "find . -exec sh -c 'rm x' ;",
        "bash -c \"bash -c 'rm x'\"",
        "eval rm x",
        "eval 'rm x'",
        "trap 'rm x' EXIT",
        "ssh host 'rm x'",
        "env -S 'rm x'",
        "[[ $(rm x) ]]",
        '[ -n "$(rm x)" ]',
        "export A=$(rm x)",
        "arr=($(rm x))",
        "time rm x ; (",
    ],
)
def test_commands_are_found_wherever_they_hide(line: str) -> None:
    assert ("rm", "x") in [argv[:2] for argv in commands(line)]


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            ["ls", " ", "\n", ";", "&&", "|", "(", ")", "{", "}", "$(", "`", "'", '"', "\\", "<<E",
             "E", ">", "<", "&", "if", "then", "fi", "f()", "$", "#", "é", "\x00", "a=1"]
        ),
        max_size=30,
    ).map("".join)
)  # fmt: skip
def test_no_line_breaks_the_analysis(line: str) -> None:
    analysis = analyse(line)
    for command in analysis.commands:
        assert command.argv or command.writes_to or command.reads_from
        assert all(0 <= index < len(command.argv) for index in command.expands)
