"""Answers that must obey a JSON Schema."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.agent.answer_form import AnswerForm
from qcode.protocol.errors import AnswerNotInForm, BadInput

FORM = AnswerForm(
    {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0}, "of": {"enum": ["a", "b"]}},
        "required": ["n"],
    }
)


@pytest.mark.parametrize(
    "text",
    [
        '{"n": 1}',
        ' {"n": 1}\n',
        'Here it is:\n```json\n{"n": 1}\n```\nAs you see.',
        '```\n{"n": 1}\n```',
    ],
)
def test_the_value_is_all_of_the_text_or_its_one_block(text: str) -> None:
    assert FORM.read(text) == {"n": 1}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "not JSON"),
        ('{"n": 1', "not JSON"),
        ('{"n": NaN}', "not JSON"),
        ('So: {"n": 1}', "not JSON"),
        # Which of two would be the answer is a guess.
        ('```json\n{"n": 1}\n```\n```json\n{"n": 2}\n```', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "'n' is a required property"),
        ('{"n": -1}', r"\$\.n: -1 is less than the minimum"),
        ('{"n": 1, "of": "c"}', r"\$\.of: 'c' is not one of"),
    ],
)
def test_what_does_not_obey_is_told(text: str, problem: str) -> None:
    with pytest.raises(AnswerNotInForm, match=problem):
        FORM.read(text)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans())))
def test_what_is_read_is_what_was_written(value: dict[str, object]) -> None:
    assert AnswerForm({"type": "object"}).read(json.dumps(value)) == value


def test_a_problem_is_short_whatever_the_answer_holds() -> None:
    with pytest.raises(AnswerNotInForm) as caught:
        FORM.read(json.dumps({"n": "x" * 10_000}))
    assert len(caught.value.message) < 700


def test_an_older_draft_is_read_as_such() -> None:
    tuples = {"items": [{"type": "string"}], "additionalItems": False}
    old = AnswerForm({"$schema": "http://json-schema.org/draft-07/schema#", **tuples})
    with pytest.raises(AnswerNotInForm):
        old.read('["a", "b"]')


def test_references_lead_nowhere_outside() -> None:
    inside = AnswerForm({"$defs": {"n": {"type": "integer"}}, "$ref": "#/$defs/n"})
    assert inside.read("3") == 3
    with pytest.raises(BadInput, match="refers to what it does not hold"):
        AnswerForm({"$ref": "http://127.0.0.1:9/schema"}).read("3")


def test_what_is_no_schema() -> None:
    with pytest.raises(BadInput, match="properties"):
        AnswerForm({"properties": 3})
