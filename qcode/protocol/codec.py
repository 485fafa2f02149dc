"""Values to and from JSON. The one module of this package that needs pydantic.

Writing needs no schema: a value is its fields. Reading checks every field against the types, since
files and peers may hold anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Generic, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError

from qcode.protocol import errors
from qcode.protocol.errors import QcodeError
from qcode.protocol.events import Event
from qcode.protocol.messages import Message

T = TypeVar("T")

JsonValue = dict[str, "JsonValue"] | list["JsonValue"] | str | int | float | bool | None


class Undecodable(ValueError):
    """JSON that is not a value of the wanted type."""


def to_plain(value: object) -> JsonValue:
    """The JSON form of a value of ours: dataclasses as objects, tuples as lists, an error as its
    class name, message and hint. Half characters (lone surrogates) become U+FFFD."""
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, str):
        return value if value.isascii() else _whole_characters(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, QcodeError):
        return {
            "type": type(value).__name__,
            "message": to_plain(value.message),
            "hint": to_plain(value.hint),
        }
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_json(value: object) -> str:
    """One line of ASCII: safe to split at newlines and to cut at any byte."""
    return json.dumps(to_plain(value), ensure_ascii=True, separators=(",", ":"))


def _whole_characters(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class Decoder(Generic[T]):
    """Reads values of one type or union of types, told apart by their literal fields."""

    def __init__(self, kind: object) -> None:
        self._adapter: TypeAdapter[T] = TypeAdapter(
            cast("type[T]", kind), config=ConfigDict(arbitrary_types_allowed=True)
        )

    def from_plain(self, value: object) -> T:
        """Raises `Undecodable`."""
        try:
            return self._adapter.validate_python(_with_error(value))
        except ValidationError as error:
            raise Undecodable(str(error)) from error

    def from_json(self, text: str | bytes) -> T:
        """Raises `Undecodable`."""
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Undecodable(str(error)) from error
        return self.from_plain(value)


def _with_error(value: object) -> object:
    """An event's `error` object as the exception it stands for; unknown classes as their base."""
    if not isinstance(value, dict) or not isinstance(error := value.get("error"), dict):
        return value
    kind: Any = getattr(errors, str(error.get("type")), QcodeError)
    if not (isinstance(kind, type) and issubclass(kind, QcodeError)):
        kind = QcodeError
    return {**value, "error": kind(str(error.get("message", "")), str(error.get("hint", "")))}


def message_decoder() -> Decoder[Message]:
    return Decoder(Message)


def event_decoder() -> Decoder[Event]:
    return Decoder(Event)
