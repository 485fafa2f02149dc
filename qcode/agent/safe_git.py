"""git commands that only read.

A repository's own configuration can make even these run programs; whether it does is part of the
request (`protected`). Here no global option passes, no flag that names a program or a file to
write, and no abbreviation.
"""

from __future__ import annotations

from qcode.agent.command_flags import Flags, accepts, long_names

_DIFF_NAMES = (
    "stat shortstat numstat dirstat summary name-only name-status patch no-patch raw minimal "
    "patience histogram word-diff color-words color no-color no-ext-diff no-textconv check "
    "ignore-all-space ignore-space-change ignore-space-at-eol ignore-blank-lines function-context "
    "find-renames find-copies no-renames diff-filter diff-algorithm relative full-index binary "
    "abbrev unified exit-code quiet inter-hunk-context no-prefix compact-summary"
)
_LOG_NAMES = (
    "oneline graph all branches tags remotes decorate no-decorate merges no-merges first-parent "
    "reverse follow abbrev-commit no-abbrev-commit max-count skip since until after before author "
    "committer grep format pretty date topo-order date-order left-right cherry-pick"
)
_LOG_VALUES = "max-count skip since until after before author committer grep date"
_DIFF = Flags(letters="pusRawbMCDWz", valued="USG", longs=long_names(_DIFF_NAMES))
_LOG = Flags(
    letters="pusRawbMCDWziE",
    valued="USGnL",
    longs=long_names(f"{_DIFF_NAMES} {_LOG_NAMES}"),
    long_values=long_names(_LOG_VALUES),
    numeric=True,
)
_BRANCH_LIST = Flags(
    letters="avrl",
    longs=long_names("list all remotes verbose show-current no-color color sort format"),
    long_values=long_names("merged no-merged contains no-contains points-at"),
)
_COMMANDS: dict[str, Flags] = {
    "status": Flags(
        letters="sbvz",
        longs=long_names(
            "short branch porcelain long verbose untracked-files ignored ahead-behind show-stash"
        ),
    ),
    "diff": Flags(
        letters=_DIFF.letters, valued=_DIFF.valued,
        longs=_DIFF.longs | long_names("cached staged merge-base"),
    ),
    "log": _LOG,
    "show": _LOG,
    "blame": Flags(letters="wlestfMC", valued="L", longs=long_names("date porcelain show-email")),
    "ls-files": Flags(
        letters="cdmosukvz",
        valued="x",
        longs=long_names(
            "cached deleted modified others stage unmerged exclude-standard full-name "
            "error-unmatch directory"
        ),
    ),
    "rev-parse": Flags(
        longs=long_names(
            "show-toplevel show-prefix show-cdup abbrev-ref verify short git-dir "
            "is-inside-work-tree is-bare-repository symbolic-full-name quiet"
        ),
        letters="q",
    ),
    "describe": Flags(longs=long_names("tags always long all abbrev match contains")),
    "shortlog": Flags(letters="sne", longs=long_names("summary numbered email")),
}  # fmt: skip


def is_safe_git(arguments: tuple[str, ...]) -> bool:
    """`arguments` are the words after `git`."""
    if not arguments:
        return True
    name, rest = arguments[0], arguments[1:]
    # %G in a format runs gpg.
    if any("%G" in word for word in rest):
        return False
    if name == "branch":
        lists = any(word in {"-l", "--list"} for word in rest)
        operands = 0 if not lists else None
        listing = Flags(
            letters=_BRANCH_LIST.letters, longs=_BRANCH_LIST.longs,
            long_values=_BRANCH_LIST.long_values, max_operands=operands,
        )  # fmt: skip
        return accepts(listing, rest)
    if name == "remote":
        return rest in {(), ("-v",), ("--verbose",)}
    flags = _COMMANDS.get(name)
    return flags is not None and accepts(flags, rest)
