"""From a model's argument text to a tool's parameters, without inventing anything."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from qcode.engine.chat.arguments import Parameters, coerce
from qcode.protocol.errors import QcodeError
from qcode.protocol.tools import Tool
from qcode.protocol.values import dataclass

MAX_ARGUMENT_CHARS = 1024 * 1024

_MAX_SHOWN_CHARS = 80


class ArgumentError(QcodeError):
    """A call that cannot be run as it was written, in words for the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """`guessed` says that the text was not valid JSON and was mended by guessing; `remark` tells
    the model what was mended, guessed or not."""

    params: Any
    guessed: bool = False
    remark: str = ""


def read_arguments(tool: Tool[Any], text: str) -> Arguments:
    """Parses, mends what has one reading only, and validates. Raises `ArgumentError`, which names
    the fields."""
    if len(text) > MAX_ARGUMENT_CHARS:
        raise ArgumentError(
            f"Not run: the arguments are longer than {MAX_ARGUMENT_CHARS} characters."
        )
    remarks: list[str] = []
    value, guess = _parse(tool.name, text, remarks)
    if not isinstance(value, dict):
        raise ArgumentError(f"Not run: the arguments of {tool.name} must be one JSON object.")
    if guess:
        remarks.append(guess)
    schema = tool.parameters.model_json_schema()
    value = _coerced(value, Parameters(schema), remarks)
    params = _validate(tool, value, schema)
    return Arguments(params=params, guessed=bool(guess), remark="\n".join(remarks))


def _parse(name: str, text: str, remarks: list[str]) -> tuple[Any, str]:
    """The JSON value and, where it had to be guessed at, what was guessed.

    Raw control characters inside strings are taken as they are: they have one reading only.
    """
    if not text.strip():
        return {}, ""  # the usual way to call a tool without arguments; required fields still fail

    def last_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, item in pairs:
            if key in value and value[key] != item:
                remarks.append(f"{key} was given twice; the last was taken.")
            value[key] = item
        return value

    try:
        return json.loads(
            text, strict=False, object_pairs_hook=last_wins, parse_constant=_refuse_constant
        ), ""
    except RecursionError:
        raise ArgumentError(f"Not run: the arguments of {name} are nested too deeply.") from None
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


def _refuse_constant(name: str) -> None:
    raise ArgumentError(f"Not run: {name} is not a JSON value.")


def _is_cut_off(text: str, error: json.JSONDecodeError) -> bool:
    return error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")


def _coerced(value: dict[str, Any], parameters: Parameters, remarks: list[str]) -> dict[str, Any]:
    """`value` with fields read that hold a number, a truth value, a list or an object as text,
    where the schema does not admit text. What cannot be read so is left for validation."""
    result = dict(value)
    for name, given in value.items():
        types = parameters.types(name)
        if not isinstance(given, str) or not types or "string" in types:
            continue
        read = coerce(given, types)
        if not isinstance(read, str):
            result[name] = read
            shown = given if len(given) <= _MAX_SHOWN_CHARS else f"{given[:_MAX_SHOWN_CHARS]}…"
            remarks.append(f"{name} was given as text and read as {_kind(read)}: {shown}")
    return result


def _kind(value: object) -> str:
    match value:
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case dict():
            return "an object"
    return "null"


def _validate(tool: Tool[Any], value: dict[str, Any], schema: dict[str, Any]) -> Any:
    faults = [f"{name}: there is no such field" for name in _unknown(value, schema)]
    try:
        params = tool.parameters.model_validate(value)
    except ValidationError as error:
        faults += [
            f"{'.'.join(map(str, item['loc'])) or 'arguments'}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
    else:
        if not faults:
            return params
    required = schema.get("required", [])
    fields = ", ".join(
        f"{name} (required)" if name in required else name for name in schema.get("properties", {})
    )
    raise ArgumentError(
        f"Not run: invalid arguments for {tool.name}: {'; '.join(faults)}. "
        f"Its fields: {fields or 'none'}."
    )


def _unknown(value: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """The fields that the schema does not name, unless it admits such."""
    properties = schema.get("properties")
    extra = schema.get("additionalProperties", False)
    if properties is None or extra is not False:
        return []
    return [name for name in value if name not in properties]
