"""The grammars under llguidance: what they admit, and that the natural tokens of an answer stay
possible at every border between pinned and free text."""

from __future__ import annotations

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from qcode.agent.repair.definitions import Definition, find_definitions
from qcode.agent.repair.grammars import definition_grammar, search_replace_grammar
from qcode.engine.grammar import GrammarCompiler
from qcode.protocol.errors import EngineError

PYTHON = """\
LIMIT = 3


def slugify(title):
    return title


class Cart:
    def total(self, percent=0):
        return self.sum
"""
# Tokens as real vocabularies have them at the borders: a parenthesis with the word after it, a
# closing fence with its newline. Byte-pair merging reaches a piece through its prefixes.
PIECES = ["(title", "):\n", "```", "\n```", "        ", " return", "def", " slug", "=\n", "====="]
PIECES += ["<<<<", ">>>>", "_in", "\n\n"]


def make_encoding() -> tiktoken.Encoding:
    ranks = {bytes([value]): value for value in range(256)}
    for piece in PIECES:
        for end in range(2, len(piece) + 1):
            ranks.setdefault(piece[:end].encode(), len(ranks))
    return tiktoken.Encoding(
        name="test",
        pat_str=r"[\s\S]+",
        mergeable_ranks=ranks,
        special_tokens={"<|end|>": len(ranks)},
    )


ENCODING = make_encoding()
END = ENCODING.n_vocab - 1
COMPILER = GrammarCompiler(ENCODING, num_tokens=ENCODING.n_vocab, eos_ids=[END])


def admits(grammar: str, text: str) -> bool:
    """The grammar takes the text, in its natural tokens, and may end there."""
    constraint = COMPILER.compile(grammar)
    try:
        for token in ENCODING.encode(text):
            if not constraint.allowed()[token]:
                return False
            constraint.consume(token)
    except EngineError:
        return False
    return constraint.is_complete or bool(constraint.allowed()[END])


def definitions(*names: str) -> list[Definition]:
    found = {item.name: item for item in find_definitions("a.py", PYTHON, "python")}
    return [found[name] for name in names]


@pytest.mark.parametrize(
    "text",
    [
        "```python\ndef slugify(title):\n    return title\n```",
        "```python\ndef slugify(title, sep='-'):\n    x = 1\n\n    if x:\n        return 2\n```",
        "```python\ndef slugify(\n    title,\n):\n    return title\n```",
        "```python\n    def total(self):\n        return 1\n```",
        "```python\nLIMIT = 4\n```",
        "```python\nLIMIT = {\n    1: 2,\n}\n```",
    ],
)
def test_one_of_the_definitions_rewritten(text: str) -> None:
    assert admits(definition_grammar(definitions("slugify", "total", "LIMIT")), text)


@pytest.mark.parametrize(
    "text",
    [
        "def slugify(title):\n    return title\n",
        "```python\ndef other(title):\n    return title\n```",
        "```python\ndef slugify(title):\n    return title\n\n\ndef other():\n    pass\n```",
        "```python\ndef slugify(title):\n```",
        "```python\n    def total(self):\n    return 1\n```",
        "Here is the fix:\n```python\ndef slugify(title):\n    return title\n```",
        "```python\ndef slugify(title):\n    return title\n",
        "```python\ndef slugify(title):\n\n\n    return title\n```",
    ],
)
def test_nothing_else(text: str) -> None:
    assert not admits(definition_grammar(definitions("slugify", "total", "LIMIT")), text)


def test_the_natural_token_at_the_forced_border_stays_possible() -> None:
    """Token healing: `(title` is one token. After `def slugify` it must be open to the model,
    though the pinned header ends with the parenthesis alone."""
    constraint = COMPILER.compile(definition_grammar(definitions("slugify")))
    for token in ENCODING.encode("```python\ndef slugify"):
        constraint.consume(token)
    allowed = constraint.allowed()
    for piece in (b"(", b"(t", b"(ti", b"(title"):
        assert allowed[ENCODING.encode_single_token(piece)]
    assert not allowed[ENCODING.encode_single_token(b"=")]


def test_a_function_between_braces_ends_with_its_brace() -> None:
    text = "function f(a) {\n  if (a) {\n    return 1;\n  }\n}\n"
    grammar = definition_grammar(find_definitions("a.js", text, "javascript"))
    assert admits(grammar, f"```javascript\n{text}```")
    assert not admits(grammar, f"```javascript\n{text}function g() {{\n}}\n```")


def shown(text: str) -> list[tuple[int, str]]:
    return list(enumerate(text.splitlines(), start=1))


def block(search: str, new: str) -> str:
    return f"<<<<<<< SEARCH\n{search}=======\n{new}>>>>>>> REPLACE"


@pytest.mark.parametrize(
    ("search", "new"),
    [
        ("LIMIT = 3\n", "LIMIT = 4\n"),
        ("    return title\n\n\n", "    return t\n\n\n"),
        ("    return title\n", ""),
        ("LIMIT = 3\n\n\n", "LIMIT = 3\n\n"),
    ],
)
def test_search_lines_that_exist(search: str, new: str) -> None:
    assert admits(search_replace_grammar({"a.py": shown(PYTHON)}), block(search, new))


@pytest.mark.parametrize(
    "search",
    [
        "LIMIT = 5\n",
        "    return titl\n",
        "LIMIT = 3\n    return title\n",  # not consecutive
        "def slugify(title):\n",  # a copy would always begin at a header
        "\n",
        "",
        "".join(f"{line}\n" for _, line in shown(PYTHON)[:6]),  # more than it may copy
    ],
)
def test_search_lines_that_do_not_exist(search: str) -> None:
    assert not admits(search_replace_grammar({"a.py": shown(PYTHON)}), block(search, "x\n"))


def test_the_file_is_named_where_there_are_several() -> None:
    grammar = search_replace_grammar({"a.py": [(1, "x = 1")], "b.py": [(1, "y = 1")]})
    assert admits(grammar, "b.py\n" + block("y = 1\n", "y = 2\n"))
    assert not admits(grammar, "a.py\n" + block("y = 1\n", "y = 2\n"))
    assert not admits(grammar, block("y = 1\n", "y = 2\n"))


LINE = st.text(alphabet="ab \"'\\/{}[]#é\t|?", min_size=1, max_size=12).filter(str.strip)


@given(st.lists(LINE, min_size=1, max_size=6), st.data())
def test_any_line_of_any_file_can_be_searched(lines: list[str], data: st.DataObject) -> None:
    numbered = list(enumerate([f"x{line}" for line in lines], start=1))
    chosen = "x" + data.draw(st.sampled_from(lines))
    assert admits(search_replace_grammar({"a": numbered}), block(chosen + "\n", "z\n"))
