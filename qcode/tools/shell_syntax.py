"""A command line -> its simple commands, by tree-sitter-bash.

The grammar and bash disagree in places, and bash decides what runs. So only node kinds on an
allow-list count as understood, the text is checked for the known disagreements before it is
parsed, and every word is resolved a second time from its own text. What is left makes the line
`opaque`: nothing may speak for it, but every command found in it is still listed, so that deny
rules apply.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from qcode.protocol.permissions import ShellAnalysis, SimpleCommand
from qcode.tools.shell_words import resolve_word

MAX_LINE_BYTES = 16 * 1024
MAX_COMMANDS = 200
MAX_NESTING = 50
MAX_SCRIPT_DEPTH = 5

_UNDERSTOOD = frozenset(
    {
        "program", "list", "pipeline", "command", "command_name", "redirected_statement",
        "file_redirect", "word", "string", "string_content", "raw_string", "ansi_c_string",
        "number", "concatenation", "file_descriptor",
        "&&", "||", ";", "|", "\n", '"', ">", ">>", "<", ">&", "<&", "&>", "&>>", ">|",
    }
)  # fmt: skip
_REASONS = {
    "command_substitution": "a command substitution",
    "process_substitution": "a process substitution",
    "simple_expansion": "a variable",
    "expansion": "a variable",
    "arithmetic_expansion": "arithmetic",
    "heredoc_redirect": "a here-document",
    "herestring_redirect": "a here-string",
    "function_definition": "a function definition",
    "for_statement": "a loop",
    "c_style_for_statement": "a loop",
    "while_statement": "a loop",
    "if_statement": "a condition",
    "case_statement": "a condition",
    "test_command": "a test expression",
    "subshell": "a subshell",
    "compound_statement": "a group",
    "negated_command": "a negation",
    "variable_assignment": "a variable assignment",
    "declaration_command": "a declaration",
    "unset_command": "a declaration",
    "comment": "a comment",
    "&": "a background job",
    "brace_expression": "a brace range",
}
_HARMLESS_VARIABLES = frozenset({"LC_ALL", "LANG", "TZ", "NO_COLOR", "COLUMNS"})
_HARMLESS_TARGETS = frozenset({"/dev/null"})
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "ash", "mksh", "fish"})
_SCRIPT_TAKERS = frozenset(
    {
        "eval", "trap", "ssh", "su", "watch", "script", "flock", "parallel", "env", "xargs",
        "tmux", "screen", "runuser", "sg", "busybox",
    }
)  # fmt: skip
_WORD_BREAK = re.compile(r"[\s;|&<>(){}`]+|\$\(")


def analyse(command: str) -> ShellAnalysis:
    """Take a line apart; never raises."""
    return _Walk().run(command, depth=0)


class _Walk:
    """One analysis: the commands so far and the first reason not to understand them."""

    def __init__(self) -> None:
        self._commands: list[SimpleCommand] = []
        self._opaque: str | None = None
        self._source = b""

    def run(self, command: str, *, depth: int) -> ShellAnalysis:
        self._parse(command, depth)
        return ShellAnalysis(commands=tuple(self._commands), opaque=self._opaque)

    def _doubt(self, reason: str) -> None:
        self._opaque = self._opaque or reason

    def _parse(self, command: str, depth: int) -> None:
        source = command.encode("utf-8", "surrogatepass")
        if len(source) > MAX_LINE_BYTES:
            self._doubt(f"longer than {MAX_LINE_BYTES} bytes")
            self._commands += _commands_by_words(command)
            return
        reason = _hidden_text(command)
        root = Parser(Language(tree_sitter_bash.language())).parse(source).root_node
        if root.has_error:
            reason = reason or "not valid shell syntax"
        if reason is not None:
            self._doubt(reason)
            self._commands += _commands_by_words(command)
        outer, self._source = self._source, source
        self._walk(root, depth)
        self._source = outer

    def _walk(self, root: Node, depth: int) -> None:
        """Every node once, in the order of the text."""
        pending = [(root, 0)]
        redirects: dict[int, list[Node]] = {}
        while pending:
            node, nesting = pending.pop()
            if nesting > MAX_NESTING:
                self._doubt("nested too deeply")
            if len(self._commands) > MAX_COMMANDS:
                self._doubt(f"more than {MAX_COMMANDS} commands")
                self._commands += _commands_by_words(self._source.decode("utf-8", "replace"))
                return
            if node.type == "variable_assignment" and self._is_harmless(node):
                continue
            if not _is_understood(node):
                self._doubt(_REASONS.get(node.type, "a construct that is not understood"))
            if node.type == "command":
                self._command(node, redirects.get(node.id, []), depth)
            elif node.type == "redirected_statement":
                own = [child for child in node.children if child.type.endswith("_redirect")]
                last = _last_command(node)
                if last is None:
                    self._add([], own, depth)
                else:
                    redirects.setdefault(last.id, []).extend(own)
            pending += [(child, nesting + 1) for child in reversed(node.children)]

    def _command(self, node: Node, redirects: list[Node], depth: int) -> None:
        words: list[Node] = []
        redirects = list(redirects)
        previous: Node | None = None
        for child in node.children:
            gap = b"" if previous is None else self._source[previous.end_byte : child.start_byte]
            if gap.strip(b" \t") or not child.is_named:
                self._doubt("a construct that is not understood")
            previous = child
            if child.type.endswith("_redirect"):
                redirects.append(child)
            elif child.type != "variable_assignment":
                words.append(child)
        self._add(words, redirects, depth)

    def _is_harmless(self, node: Node) -> bool:
        """`TZ=UTC` before a command: it changes how output looks and nothing else."""
        name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
        return (
            node.parent is not None
            and node.parent.type == "command"
            and name is not None
            and self._text(name) in _HARMLESS_VARIABLES
            and (value is None or resolve_word(self._text(value)) is not None)
        )

    def _add(self, words: list[Node], redirects: list[Node], depth: int) -> None:
        argv: list[str] = []
        expands: list[int] = []
        writes_to: list[str] = []
        reads_from: list[str] = []
        for node in words:
            self._word(node, argv, expands)
        for redirect in redirects:
            extra = self._redirect(redirect, writes_to, reads_from)
            for node in extra:  # `cmd > file word`: the grammar gives the word to the redirection
                self._word(node, argv, expands)
        if 0 in expands:
            self._doubt("a command name that the shell expands")
        if not (argv or writes_to or reads_from):
            return
        self._commands.append(
            SimpleCommand(
                argv=tuple(argv),
                writes_to=tuple(writes_to),
                reads_from=tuple(reads_from),
                expands=tuple(expands),
            )
        )
        scripts = [self._here_text(r) for r in redirects if r.type.startswith("here")]
        self._inner_scripts(argv, scripts, depth)

    def _word(self, node: Node, argv: list[str], expands: list[int]) -> None:
        source = self._text(node)
        word = resolve_word(source)
        if word is None:
            self._doubt("a word whose value only the shell knows")
            argv.append(source)
            return
        if word.expands:
            expands.append(len(argv))
        argv.append(word.value)

    def _redirect(self, node: Node, writes_to: list[str], reads_from: list[str]) -> list[Node]:
        """Record the target; returns the words that are arguments after all."""
        if node.type != "file_redirect":
            return []
        operator = next((c.type for c in node.children if not c.is_named), "")
        targets = node.children_by_field_name("destination")
        if not targets:
            self._doubt("a redirection that is not understood")
            return []
        source = self._text(targets[0])
        word = resolve_word(source)
        if word is None or word.expands:
            self._doubt("a redirection to a file that only the shell knows")
        value = source if word is None else word.value
        if operator in {">&", "<&"} and value.isdigit():
            pass  # a copy of a descriptor
        elif operator == "<":
            reads_from.append(value)
        elif value not in _HARMLESS_TARGETS:
            writes_to.append(value)
        return list(targets[1:])

    def _inner_scripts(self, argv: list[str], here: list[str], depth: int) -> None:
        """Commands inside the words of a command that runs its words."""
        names = [word.rsplit("/", 1)[-1] for word in argv]
        scripts = list(_shell_scripts(argv, names))
        if not _SCRIPT_TAKERS.isdisjoint(names):
            scripts += [word for word in argv if _WORD_BREAK.search(word)]
            if names[0] == "eval":
                scripts.append(" ".join(argv[1:]))
        if not _SHELLS.isdisjoint(names):
            scripts += here
        for script in scripts:
            self._doubt("a script inside the command")
            if depth < MAX_SCRIPT_DEPTH:
                self._parse(script, depth + 1)
            else:
                self._commands += _commands_by_words(script)

    def _here_text(self, node: Node) -> str:
        """What a here-document or here-string gives to its command."""
        text = self._text(node)
        if node.type == "herestring_redirect":
            word = resolve_word(text.removeprefix("<<<").strip())
            return text if word is None else word.value
        return text.partition("\n")[2]

    def _text(self, node: Node) -> str:
        return self._source[node.start_byte : node.end_byte].decode("utf-8", "replace")


def _is_understood(node: Node) -> bool:
    if node.type == "$":  # a dollar sign that stands for itself, as in "cost: 5$"
        return node.parent is not None and node.parent.type == "string"
    return node.type in _UNDERSTOOD


def _last_command(statement: Node) -> Node | None:
    """The command a redirection belongs to. The grammar ties that of `a && b > f` to the list."""
    node: Node | None = statement
    while node is not None and node.type != "command":
        if node.type == "redirected_statement":
            node = node.child_by_field_name("body")
        elif node.type in {"list", "pipeline"}:
            node = node.named_children[-1]
        else:
            return None
    return node


def _shell_scripts(argv: list[str], names: list[str]) -> Iterator[str]:
    """The SCRIPT of every `sh -c SCRIPT`, wherever in the line the shell is named."""
    for index, name in enumerate(names):
        if name not in _SHELLS:
            continue
        takes_script = False
        for word in argv[index + 1 :]:
            if word.startswith("-") and len(word) > 1:
                takes_script = takes_script or (not word.startswith("--") and "c" in word)
            elif takes_script:
                yield word
                break


def _hidden_text(command: str) -> str | None:
    """Why what is read may differ from what runs."""
    if "\\\n" in command:
        return "a line joined by a backslash"
    for character in command:
        if character in "\n\t" or "\x20" <= character <= "\x7e":
            continue
        category = unicodedata.category(character)
        if category in {"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"}:
            return f"the character U+{ord(character):04X}"
    return None


def _commands_by_words(command: str) -> list[SimpleCommand]:
    """Where the structure is in doubt, every word may be a command: for deny rules only."""
    words = [word.strip("\"'\\") for word in _WORD_BREAK.split(command)]
    words = [word for word in words if word]
    return [SimpleCommand(argv=tuple(words[i : i + 8])) for i in range(len(words))]
