"""Arguments of calls: values written as text become values of the schema's types."""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Iterator, Mapping

from qcode.protocol.tools import ToolSpec

_MAX_REF_DEPTH = 16
_NULL_TEXTS = ("null", "None")
_JSON_TYPES: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
    dict: "object",
    list: "array",
}


class Parameters:
    """The parameters of one tool: their names and the JSON types each admits."""

    def __init__(self, schema: Mapping[str, object]) -> None:
        properties = schema.get("properties")
        self._properties = properties if isinstance(properties, dict) else {}
        self._root = schema

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._properties)

    def types(self, name: str) -> frozenset[str]:
        """Empty for an unknown parameter and for one whose schema does not say."""
        return frozenset(_types(self._properties.get(name), self._root, _MAX_REF_DEPTH))


def _types(schema: object, root: Mapping[str, object], depth: int) -> Iterator[str]:
    if not isinstance(schema, dict) or depth == 0:
        return
    declared = schema.get("type")
    if isinstance(declared, str):
        yield declared
    elif isinstance(declared, list):
        yield from (item for item in declared if isinstance(item, str))
    else:
        yield from (_JSON_TYPES.get(type(value), "string") for value in _listed_values(schema))
    reference = schema.get("$ref")
    if isinstance(reference, str):
        yield from _types(_resolve(reference, root), root, depth - 1)
    for key in ("anyOf", "oneOf", "allOf"):
        branches = schema.get(key)
        for branch in branches if isinstance(branches, list) else ():
            yield from _types(branch, root, depth - 1)


def _listed_values(schema: Mapping[str, object]) -> list[object]:
    listed = schema.get("enum")
    if isinstance(listed, list):
        return listed
    return [schema["const"]] if "const" in schema else []


def _resolve(reference: str, root: Mapping[str, object]) -> object:
    if not reference.startswith("#"):
        return None
    found: object = root
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, dict) else None
    return found


def coerce(text: str, types: frozenset[str]) -> object:
    """The value that `text` stands for under `types`; the text itself where none fits.

    Validation is left to the tool: a value that cannot be read keeps its text, so that the error
    shows what the model wrote. Every value returned can be written as JSON.
    """
    bare = text.strip()
    if bare in _NULL_TEXTS and ("null" in types or (types and "string" not in types)):
        return None
    if types & {"object", "array"} and (value := _container(bare, types)) is not None:
        return value
    if "boolean" in types and bare in _BOOLEANS and (bare not in "01" or "integer" not in types):
        return _BOOLEANS[bare]
    if types & {"integer", "number"} and (number := _number(bare, types)) is not None:
        return number
    return text


_BOOLEANS = {
    "true": True,
    "True": True,
    "1": True,
    "false": False,
    "False": False,
    "0": False,
}


def _number(text: str, types: frozenset[str]) -> int | float | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    if "number" not in types:
        return int(value) if value.is_integer() else None
    return value


def _container(text: str, types: frozenset[str]) -> object | None:
    """An object or array in JSON, in Python's notation, or inside a JSON string."""
    value = read_literal(text)
    if isinstance(value, str) and "string" not in types:
        value = read_literal(value)
    if isinstance(value, dict) and "object" in types:
        return value
    if isinstance(value, list) and "array" in types:
        return value
    return None


def read_literal(text: str) -> object | None:
    """A JSON text, or a Python literal that JSON could express; None where it is neither."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)  # type: ignore[no-any-return]
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an invalid escape is the model's, not ours to show
            value = ast.literal_eval(text)
        return json.loads(json.dumps(value, allow_nan=False))  # type: ignore[no-any-return]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def dump(value: object) -> str:
    """JSON as the templates write it: one line, characters unescaped."""
    return json.dumps(value, ensure_ascii=False)


def read_arguments(arguments: str) -> dict[str, object]:
    """A call's argument text as the mapping that templates iterate; empty where it is none."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class OfferedTools:
    """The tools an answer may call, found by the names models write."""

    def __init__(self, tools: tuple[ToolSpec, ...]) -> None:
        self._parameters = {tool.name: Parameters(tool.schema) for tool in tools}

    def __bool__(self) -> bool:
        return bool(self._parameters)

    def find(self, written: str) -> str | None:
        """The offered name: the same, or the only one that differs in case alone."""
        if written in self._parameters:
            return written
        folded = written.casefold()
        alike = [name for name in self._parameters if name.casefold() == folded]
        return alike[0] if len(alike) == 1 else None

    def parameters(self, name: str) -> Parameters:
        return self._parameters.get(name, _NO_PARAMETERS)


_NO_PARAMETERS = Parameters({})
