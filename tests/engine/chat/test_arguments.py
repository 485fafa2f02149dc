from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.engine.chat.arguments import OfferedTools, Parameters, coerce, read_arguments
from qcode.engine.chat.json_stream import JsonStream
from qcode.protocol.tools import ToolSpec

ALL_TYPES = ["string", "integer", "number", "boolean", "array", "object", "null"]


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("123", "string", "123"),
        ("null", "string", "null"),
        ("null", "string null", None),
        ("None", "integer", None),
        ("5.0", "integer", 5),
        ("5.5", "integer", "5.5"),
        (" 7 ", "integer", 7),
        ("x7", "integer", "x7"),
        ("1e3", "number", 1000.0),
        ("nan", "number", "nan"),
        ("1e999", "number", "1e999"),
        ("9" * 5000, "integer", "9" * 5000),
        ("True", "boolean", True),
        ("0", "boolean", False),
        ("yes", "boolean", "yes"),
        ("1", "boolean integer", 1),
        ('{"a": [1]}', "object", {"a": [1]}),
        ("{'a': True}", "object", {"a": True}),
        ("\"{'a': 1}\"", "object", {"a": 1}),
        ("[1, NaN]", "array", "[1, NaN]"),
        ("{1, 2}", "array", "{1, 2}"),
        ("[1]", "object", "[1]"),
        ("[" * 5000, "array", "[" * 5000),
        ("[1]", "string array", [1]),
        ("plain", "string array", "plain"),
        ("4", "string integer", 4),
        ("anything", "", "anything"),
        ("null", "", "null"),
    ],
)
def test_text_becomes_the_schemas_value(text: str, types: str, value: object) -> None:
    found = coerce(text, frozenset(types.split()))
    assert found == value
    assert type(found) is type(value)


@given(st.text(max_size=30), st.sets(st.sampled_from(ALL_TYPES)))
def test_any_text_becomes_something_json_can_hold(text: str, types: set[str]) -> None:
    value = coerce(text, frozenset(types))
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": ["integer", "null"]}, {"integer", "null"}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"integer", "null"}),
        ({"oneOf": [{"$ref": "#/$defs/A"}, {"type": "string"}]}, {"array", "string"}),
        ({"enum": ["a", 1, None]}, {"string", "integer", "null"}),
        ({"const": True}, {"boolean"}),
        ({"$ref": "#/$defs/Loop"}, set()),
        ({"$ref": "#/$defs/Missing/x"}, set()),
        ({"$ref": "http://elsewhere"}, set()),
        (True, set()),
        ({}, set()),
    ],
)
def test_types_of_a_parameter(schema: object, types: set[str]) -> None:
    root = {
        "properties": {"p": schema},
        "$defs": {"A": {"type": "array"}, "Loop": {"$ref": "#/$defs/Loop"}},
    }
    assert Parameters(root).types("p") == types
    assert Parameters(root).types("other") == frozenset()


def test_names_are_found_when_they_are_certain() -> None:
    specs = [ToolSpec(name=name, description="", schema={}) for name in ("Read", "read", "Write")]
    offered = OfferedTools(tuple(specs))
    assert offered.find("read") == "read"
    assert offered.find("WRITE") == "Write"
    assert offered.find("READ") is None
    assert not OfferedTools(())


@pytest.mark.parametrize("text", ["", "{oops", "[1]", '"a"', "[" * 5000])
def test_arguments_that_are_no_object_are_empty(text: str) -> None:
    assert read_arguments(text) == {}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(values, st.sampled_from([None, 1]), st.lists(st.integers(0, 500), max_size=10))
def test_json_streams_through_unchanged(value: object, indent: int | None, cuts: list[int]) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    assert streamed(text, cuts) == json.dumps(value, ensure_ascii=False)


@given(values, st.lists(st.integers(0, 500), max_size=10))
def test_pythons_notation_becomes_json(value: object, cuts: list[int]) -> None:
    written = streamed(repr(value).replace("\\x", "\\u00"), cuts)
    if "\\U" not in repr(value):
        assert json.loads(written) == value


def streamed(text: str, cuts: list[int]) -> str:
    stream = JsonStream()
    written, at = "", 0
    for end in sorted({*(cut % (len(text) + 1) for cut in cuts), len(text)}):
        at = stream.read(text[:end], at, final=end == len(text))
        piece = stream.take()
        written += piece
    assert stream.done
    assert not stream.failed
    return written
