"""Commands that only read, and so may run unasked.

A command is safe only with flags from its own list: an unknown flag, an abbreviated long option or
an operand where none belongs makes it unsafe. Whether the paths it names may be read is not decided
here: the request says that for the whole line (`inside_workspace`, `protected`).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from qcode.agent.command_flags import Flags, accepts, long_names
from qcode.agent.safe_git import is_safe_git
from qcode.protocol.permissions import SimpleCommand

_WRAPPERS = frozenset(
    {
        "env", "sudo", "doas", "timeout", "nice", "ionice", "nohup", "time", "stdbuf", "setsid",
        "command", "builtin", "exec", "xargs", "busybox", "script", "flock", "watch", "parallel",
        "strace", "ltrace", "ssh", "su", "runuser", "chroot", "unshare", "nsenter", "fd", "fdfind",
        "chronic", "unbuffer", "taskset", "chrt", "caffeinate", "coproc",
        "sh", "bash", "dash", "zsh", "ksh",
    }
)  # fmt: skip
_FIND_RUNS = frozenset({"-exec", "-execdir", "-ok", "-okdir"})
_SCAN = 64  # words; enough for any rule, and keeps a line of thousands of words cheap
_DURATION = re.compile(r"\d+(\.\d+)?[smhd]?")


def is_safe(command: SimpleCommand) -> bool:
    """Reads only, whatever the files named are."""
    if command.writes_to or not command.argv:
        return not command.writes_to
    name, arguments = command.argv[0], command.argv[1:]
    if name == "git":
        return not command.expands and is_safe_git(arguments)
    check = _SPECIAL.get(name)
    if check is not None:
        return not command.expands and check(arguments)
    flags = _READERS.get(name)
    if flags is None or (command.expands and not flags.expands):
        return False
    if any(_may_become_flags(command.argv[index]) for index in command.expands):
        return False
    return accepts(flags, arguments)


def _may_become_flags(word: str) -> bool:
    """`-*` may become any flag, `--include=*.py` only itself with another value."""
    return word.startswith("-") and re.match(r"--[a-z-]+=", word) is None


def wrapped_commands(argv: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every command that `argv` may run in turn. Generous: for rules that forbid."""
    if argv and argv[0].rsplit("/", 1)[-1] in _WRAPPERS:
        return [argv[index : index + _SCAN] for index in range(1, len(argv))]
    starts = [index + 1 for index, word in enumerate(argv[:-1]) if word in _FIND_RUNS]
    return [argv[start : start + _SCAN] for start in starts]


def wrapped_command(argv: tuple[str, ...]) -> tuple[str, ...] | None:
    """The command that `argv` certainly runs and nothing else; None where that is not certain.
    Strict: for rules that allow."""
    name, rest = argv[0], argv[1:]
    if name == "timeout":
        while rest and rest[0].startswith(("--kill-after=", "--signal=")):
            rest = rest[1:]
        rest = rest[1:] if rest and _DURATION.fullmatch(rest[0]) else ()
    elif name == "time":
        rest = rest[1:] if rest[:1] == ("-p",) else rest
    elif name == "nice":
        rest = rest[2:] if rest[:1] == ("-n",) else rest
    elif name not in {"nohup", "command", "setsid", "stdbuf"}:
        return None
    return rest if rest and not rest[0].startswith("-") else None


def runs_others(argv: tuple[str, ...]) -> bool:
    return argv[0].rsplit("/", 1)[-1] in _WRAPPERS or not _FIND_RUNS.isdisjoint(argv)


_COLOUR = "color colour"
_SUMS = Flags(letters="bt", longs=long_names("binary text tag"))
_GREP = Flags(
    letters="EFGPivwxcLlqsoHhnbrzTUaIyu",
    valued="eABCmdD",
    longs=long_names(
        "extended-regexp fixed-strings basic-regexp perl-regexp ignore-case no-ignore-case "
        "invert-match word-regexp line-regexp count files-with-matches files-without-match quiet "
        "silent no-messages only-matching with-filename no-filename line-number recursive null "
        f"text include exclude exclude-dir {_COLOUR}"
    ),
    long_values=long_names(
        "regexp after-context before-context context max-count include exclude exclude-dir"
    ),
)
_READERS: dict[str, Flags] = {
    "ls": Flags(
        letters="aAlhtrSR1dFiskpgGoncCxXmqQbBuUvNZ",
        longs=long_names(
            "all almost-all human-readable recursive reverse size sort time classify directory "
            f"full-time inode time-style group-directories-first format si {_COLOUR}"
        ),
    ),
    "cat": Flags(
        letters="nAbeEstTuv",
        longs=long_names("number number-nonblank show-all show-ends show-tabs squeeze-blank"),
    ),
    "head": Flags(
        letters="qvz", valued="nc", numeric=True, long_values=long_names("lines bytes"),
        longs=long_names("quiet verbose"),
    ),
    "tail": Flags(
        letters="qvz", valued="nc", numeric=True, long_values=long_names("lines bytes"),
        longs=long_names("quiet verbose"),
    ),
    "wc": Flags(letters="clmwL", longs=long_names("bytes lines chars words max-line-length")),
    "nl": Flags(letters="p", valued="bdfhilnsvw"),
    "stat": Flags(letters="t", valued="c", longs=long_names("format printf terse")),
    "file": Flags(letters="bihk", longs=long_names("brief mime mime-type")),
    "du": Flags(
        letters="abchkmsxS", valued="d", long_values=long_names("max-depth"),
        longs=long_names("all total human-readable summarize apparent-size bytes"),
    ),
    "cut": Flags(
        letters="ns", valued="bcdf", long_values=long_names("bytes characters delimiter fields"),
        longs=long_names("complement only-delimited output-delimiter"),
    ),
    "tr": Flags(letters="cCdst", longs=long_names("delete squeeze-repeats complement")),
    "basename": Flags(letters="az", valued="s"),
    "dirname": Flags(letters="z"),
    "pwd": Flags(letters="LP", max_operands=0),
    "true": Flags(),
    "false": Flags(),
    "echo": Flags(letters="neE"),
    "printf": Flags(),
    "whoami": Flags(max_operands=0),
    "uname": Flags(letters="asnrvmpio", max_operands=0),
    "date": Flags(
        letters="uRI", valued="d", longs=long_names("utc iso-8601 rfc-3339"),
        operand=lambda word: word.startswith("+"),
    ),
    "which": Flags(letters="a"),
    "grep": _GREP,
    "egrep": _GREP,
    "fgrep": _GREP,
    "rg": Flags(
        letters="ivnwxclHINFPSsUoq0pah",
        valued="eABCgtTmMjr",
        longs=long_names(
            "ignore-case invert-match line-number no-line-number word-regexp count "
            "files-with-matches files-without-match fixed-strings files type-list no-heading "
            f"heading only-matching smart-case case-sensitive multiline stats sort sortr json "
            f"vimgrep trim glob type type-not {_COLOUR}"
        ),
        long_values=long_names(
            "regexp glob iglob type type-not max-count max-columns max-depth context "
            "after-context before-context"
        ),
    ),
    "sort": Flags(
        letters="bdfghiMnrRsuVcCmz",
        valued="kt",
        longs=long_names("reverse numeric-sort unique ignore-case human-numeric-sort version-sort"),
        long_values=long_names("key field-separator"),
        expands=False,
    ),
    "uniq": Flags(
        letters="cdDiuz", valued="fsw", longs=long_names("count repeated unique ignore-case"),
        max_operands=1,
        expands=False,
    ),
    "diff": Flags(
        letters="uNrqbBwiEcyaptTs", valued="UCWx", longs=long_names(
            "unified brief recursive ignore-all-space ignore-space-change ignore-blank-lines "
            f"ignore-case side-by-side new-file report-identical-files width exclude {_COLOUR}"
        ),
    ),
    "cmp": Flags(letters="bls", longs=long_names("silent quiet verbose print-bytes")),
    "md5sum": _SUMS,
    "sha1sum": _SUMS,
    "sha256sum": _SUMS,
}  # fmt: skip

_FIND_TESTS = frozenset({"-print", "-print0", "-empty", "-prune", "-quit", "-true", "-false",
    "-not", "!", "(", ")", "-o", "-or", "-a", "-and", "-xdev", "-mount", "-depth", "-ls",
    "-readable", "-writable", "-executable", "-nouser", "-nogroup"})  # fmt: skip
_FIND_VALUED = frozenset({"-name", "-iname", "-path", "-ipath", "-wholename", "-type", "-maxdepth",
    "-mindepth", "-size", "-mtime", "-mmin", "-ctime", "-cmin", "-atime", "-amin", "-newer",
    "-regex", "-iregex", "-regextype", "-perm", "-user", "-group", "-links"})  # fmt: skip


def _is_safe_find(arguments: tuple[str, ...]) -> bool:
    words = iter(arguments)
    for word in words:
        if word in _FIND_VALUED:
            if next(words, None) is None:
                return False
        elif word not in _FIND_TESTS and word.startswith(("-", "(", ")", "!")):
            return False
    return True


def _is_safe_sed(arguments: tuple[str, ...]) -> bool:
    """`sed -n 3,7p FILE`: any other program may write files or run commands."""
    if len(arguments) < 2 or arguments[0] != "-n":
        return False
    is_range = re.fullmatch(r"(\d+|\$)(,(\d+|\$))?p", arguments[1]) is not None
    return is_range and not any(word.startswith("-") for word in arguments[2:])


def _is_safe_cd(arguments: tuple[str, ...]) -> bool:
    """Not home and not back: where to must stand in the line."""
    return len(arguments) == 1 and not arguments[0].startswith("-")


_UNARY_TESTS = frozenset(f"-{letter}" for letter in "edfrwxsLhnzbcpS")
_NUMERIC_TESTS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge"})


def _is_safe_test(arguments: tuple[str, ...]) -> bool:
    """bash evaluates the operands of `-eq` and the subscripts of `-v`, so numbers only and no
    `-v`."""
    if arguments[:1] == ("!",):
        arguments = arguments[1:]
    match arguments:
        case (operator, _):
            return operator in _UNARY_TESTS
        case (_, "=" | "==" | "!=", _):
            return True
        case (left, operator, right) if operator in _NUMERIC_TESTS:
            return all(re.fullmatch(r"-?\d+", side) for side in (left, right))
    return False


_SPECIAL: dict[str, Callable[[tuple[str, ...]], bool]] = {
    "find": _is_safe_find,
    "sed": _is_safe_sed,
    "cd": _is_safe_cd,
    "test": _is_safe_test,
}
