from __future__ import annotations

import pytest

from qcode.agent.repair.answers import (
    Proposal,
    changes_nothing,
    fingerprint,
    is_well_formed,
    read_definition,
    read_search_replace,
)
from qcode.agent.repair.definitions import Definition, find_definitions
from qcode.agent.repair.overfitting import special_cases

FILE = '''\
"""A cart."""


class Cart:
    @property
    def size(self):
        return 0

    def total(self, percent=0):
        """The price."""
        return self.sum + percent


def later():
    return 1
'''
FILES = {"cart.py": FILE}


def definitions() -> tuple[Definition, ...]:
    return find_definitions("cart.py", FILE, "python")


def answered(text: str) -> Proposal:
    proposal = read_definition(text, definitions(), FILES)
    assert proposal is not None
    return proposal


METHOD = "    def total(self, percent=0):\n        return self.sum - percent\n"


@pytest.mark.parametrize(
    "answer",
    [
        f"```python\n{METHOD}```",
        "```python\ndef total(self, percent=0):\n    return self.sum - percent\n```",
        f"Here is the fix:\n\n```python\n{METHOD}```\nIt subtracts.",
        f"```python\nclass Cart:\n{METHOD}```",
        f"```python\n{METHOD}",
        METHOD,
    ],
)
def test_a_method_is_put_in_place_at_its_depth(answer: str) -> None:
    proposal = answered(answer)
    assert proposal.after == FILE.replace(
        '        """The price."""\n        return self.sum + percent',
        "        return self.sum - percent",
    )
    assert proposal.target == "Cart.total"
    assert FILE.count(proposal.old) == 1
    assert FILE.replace(proposal.old, proposal.new) == proposal.after


def test_decorators_stay() -> None:
    proposal = answered("```python\n    @property\n    def size(self):\n        return 2\n```")
    assert proposal.after == FILE.replace("return 0", "return 2")


@pytest.mark.parametrize("answer", ["", "I cannot.", "```python\ndef other():\n    pass\n```"])
def test_an_answer_that_rewrites_nothing(answer: str) -> None:
    assert read_definition(answer, definitions(), FILES) is None


def test_windows_newlines_survive() -> None:
    text = FILE.replace("\n", "\r\n")
    found = find_definitions("cart.py", text, "python")
    proposal = read_definition(
        "```python\ndef later():\n    x = 2\n    return x\n```", found, {"cart.py": text}
    )
    assert proposal is not None
    assert proposal.after == text.replace("    return 1", "    x = 2\r\n    return x")
    block = "<<<<<<< SEARCH\n    return 1\n=======\n    x = 3\n    return x\n>>>>>>> REPLACE"
    replaced = read_search_replace(block, {"cart.py": text})
    assert replaced is not None
    assert replaced.after == text.replace("    return 1", "    x = 3\r\n    return x")


def test_search_replace() -> None:
    block = "<<<<<<< SEARCH\n    return 1\n=======\n    return 2\n>>>>>>> REPLACE"
    proposal = read_search_replace(block, FILES)
    assert proposal is not None
    assert proposal.after == FILE.replace("return 1", "return 2")


@pytest.mark.parametrize(
    "block",
    [
        "<<<<<<< SEARCH\n\n=======\nx\n>>>>>>> REPLACE",
        "<<<<<<< SEARCH\n    return 9\n=======\nx\n>>>>>>> REPLACE",
        "<<<<<<< SEARCH\n    return 1\n=======\nx\n",
        "nothing",
    ],
)
def test_search_replace_that_cannot_be_applied(block: str) -> None:
    assert read_search_replace(block, FILES) is None


def test_search_text_in_two_places_is_never_chosen_between() -> None:
    files = {"a.py": "x = 1\ny = 2\nx = 1\n", "b.py": "y = 2\n"}
    once = "<<<<<<< SEARCH\nx = 1\n=======\nx = 3\n>>>>>>> REPLACE"
    two_files = "<<<<<<< SEARCH\ny = 2\n=======\ny = 3\n>>>>>>> REPLACE"
    assert read_search_replace(once, files) is None
    assert read_search_replace(two_files, files) is None
    named = read_search_replace("b.py\n" + two_files, files)
    assert named is not None
    assert (named.path, named.after) == ("b.py", "y = 3\n")


def test_layout_comments_and_docstrings_change_nothing() -> None:
    same = answered(
        "```python\n    def total(self, percent=0):\n"
        '        """Another text."""\n        # exact\n        return (self.sum + percent)\n```'
    )
    assert changes_nothing(same)
    assert not changes_nothing(answered(f"```python\n{METHOD}```"))


def test_the_same_program_has_the_same_fingerprint() -> None:
    one = answered("```python\ndef later():\n    return 5\n```")
    other = answered("```python\ndef later():\n    return 5  # five\n```")
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(answered("```python\ndef later():\n    return 6\n```"))


def test_syntax_errors_are_seen() -> None:
    assert not is_well_formed(answered("def later():\n    return (1\n"))
    assert is_well_formed(answered(f"```python\n{METHOD}```"))


SHOWN = "def test_price():\n    assert price('tea', 3) == 13.5\n"


def priced(body: str) -> Proposal:
    before = "def price(name, count):\n    return count * 4\n"
    after = f"def price(name, count):\n{body}\n"
    return Proposal(path="p.py", target="price", before=before, after=after, old=before, new=after)


@pytest.mark.parametrize(
    "body",
    [
        "    return 13.5",
        "    if name == 'tea':\n        return 1\n    return count * 4",
        "    return 1 if count * 4 == 13.5 else 2",
    ],
)
def test_special_cases(body: str) -> None:
    assert special_cases(priced(body), SHOWN)


@pytest.mark.parametrize(
    "body",
    [
        "    return count * 4.5",
        "    return count * RATE",
        "    if count > 1:\n        return 0\n    return 1",
    ],
)
def test_general_changes(body: str) -> None:
    assert not special_cases(priced(body), SHOWN)
