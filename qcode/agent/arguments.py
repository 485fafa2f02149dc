"""From a model's argument text to a tool's parameters, without inventing anything."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from qcode.protocol.errors import QcodeError
from qcode.protocol.tools import Tool

MAX_ARGUMENT_CHARS = 1024 * 1024

_CONTAINER_EXPECTED = frozenset({"list_type", "tuple_type", "dict_type", "model_type"})


class ArgumentError(QcodeError):
    """A call that cannot be run as it was written, in words for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """`guessed` says that the text was not valid JSON and was mended by guessing; `remark` tells
    the model what was done."""

    params: Any
    guessed: bool = False
    remark: str = ""


def read_arguments(tool: Tool[Any], text: str) -> Arguments:
    """Parses and validates. Raises `ArgumentError`, which names the fields."""
    if len(text) > MAX_ARGUMENT_CHARS:
        raise ArgumentError(
            f"Not run: the arguments are longer than {MAX_ARGUMENT_CHARS} characters."
        )
    value, remark = _parse(tool.name, text)
    if not isinstance(value, dict):
        raise ArgumentError(f"Not run: the arguments of {tool.name} must be one JSON object.")
    return Arguments(params=_validate(tool, value), guessed=bool(remark), remark=remark)


def _parse(name: str, text: str) -> tuple[Any, str]:
    """The JSON value and, where it had to be guessed at, a remark.

    Raw control characters inside strings are taken as they are: they have one reading only.
    """
    if not text.strip():
        return {}, ""  # the usual way to call a tool without arguments; required fields still fail
    try:
        return json.loads(text, strict=False, object_pairs_hook=_object), ""
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at character {error.pos}"
        if _is_cut_off(text, error):
            raise ArgumentError(
                f"Not run: the JSON arguments of {name} are incomplete ({reason}); the answer "
                "was probably cut off. Send the whole call again, with less text if it was long."
            ) from None
        import json_repair  # late: slow to load and rarely needed

        value = json_repair.loads(text)
        if not isinstance(value, dict) or not value:
            raise ArgumentError(
                f"Not run: the arguments of {name} are not valid JSON ({reason})."
            ) from None
        return value, f"The arguments were not valid JSON ({reason}) and were read as {value}."


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ArgumentError("Not run: the JSON arguments name the same field twice.")
    return value


def _is_cut_off(text: str, error: json.JSONDecodeError) -> bool:
    return error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")


def _validate(tool: Tool[Any], value: dict[str, Any]) -> Any:
    try:
        return tool.parameters.model_validate(value)
    except ValidationError as error:
        mended = _unquoted(value, error)
        if mended is not None:
            try:
                return tool.parameters.model_validate(mended)
            except ValidationError as still:
                error = still
        raise ArgumentError(_explain(tool, error)) from None


def _unquoted(value: dict[str, Any], error: ValidationError) -> dict[str, Any] | None:
    """`value` with fields decoded that hold a list or object as JSON text, a habit of some models
    that has one reading only; None where that is not what is wrong."""
    mended = dict(value)
    for item in error.errors(include_url=False):
        if len(item["loc"]) != 1 or item["type"] not in _CONTAINER_EXPECTED:
            return None
        field = str(item["loc"][0])
        try:
            mended[field] = json.loads(mended[field])
        except (KeyError, TypeError, ValueError):
            return None
    return mended


def _explain(tool: Tool[Any], error: ValidationError) -> str:
    faults = "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'arguments'}: {item['msg']}"
        for item in error.errors(include_url=False)
    )
    schema = tool.parameters.model_json_schema()
    required = schema.get("required", [])
    fields = ", ".join(
        f"{name} (required)" if name in required else name for name in schema.get("properties", {})
    )
    return f"Not run: invalid arguments for {tool.name}: {faults}. Its fields: {fields or 'none'}."
