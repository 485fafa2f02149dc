"""Streamed pieces of tool calls put together again, whichever way a server numbers them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from qcode.protocol.chunks import ToolCallDelta
from qcode.protocol.errors import InvalidResponse
from qcode.protocol.messages import ToolCall

_MAX_ARGUMENTS = 1 << 20
_MAX_CALLS = 64
_MARKS = re.compile(r'\\.|["{}\[\]]|\\$', re.DOTALL)


def new_call_id() -> str:
    return "call_" + uuid4().hex[:24]


@dataclass(slots=True)
class _Call:
    number: int
    id: str
    has_own_id: bool
    name: str = ""
    announced: bool = False
    num_chars: int = 0
    is_blank: bool = True
    _pieces: list[str] = field(default_factory=list)
    _num_sent: int = 0  # pieces, of those so far
    _begun: bool = False  # with a brace, after white space at most
    _depth: int = 0
    _in_string: bool = False
    _escaped: bool = False

    @property
    def complete(self) -> bool:
        """Whether the arguments so far are one whole object, judged by brackets alone."""
        return self._begun and self._depth == 0 and not self._in_string

    @property
    def arguments(self) -> str:
        return "".join(self._pieces)

    def take_unsent(self) -> str:
        """What was not taken before."""
        piece = "".join(self._pieces[self._num_sent :])
        self._num_sent = len(self._pieces)
        return piece

    def extend(self, piece: str) -> None:
        if self.is_blank:
            self._begun = piece.lstrip().startswith("{")
            self.is_blank = not piece.strip()
        self._pieces.append(piece)
        self.num_chars += len(piece)
        for mark in _MARKS.findall(("\\" if self._escaped else "") + piece):
            self._escaped = mark == "\\"
            if mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string and mark in "{[":
                self._depth += 1
            elif not self._in_string and mark in "}]":
                self._depth -= 1


class ToolCallStream:
    """The calls of one answer.

    A piece belongs to the call whose id it repeats; else to the one its index names, unless it
    clearly begins another; else to the one being written. Ids that are missing are made up.
    """

    def __init__(self, new_id: Callable[[], str] = new_call_id) -> None:
        self._new_id = new_id
        self._calls: list[_Call] = []
        self._by_id: dict[str, _Call] = {}
        self._by_index: dict[int, _Call] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def feed(self, items: Sequence[Mapping[str, object]]) -> Iterator[ToolCallDelta]:
        """The `tool_calls` of one delta. Raises InvalidResponse: arguments or calls without
        end."""
        before = len(self._calls)
        for position, item in enumerate(items):
            found = item.get("function")
            function = found if isinstance(found, Mapping) else {}
            name = _text(function.get("name")).strip()
            arguments = _arguments(function.get("arguments"))
            call = self._find(item, name, position, len(items), before)
            if call.complete and arguments.strip():
                continue  # a finished call sent once more
            call.name = call.name or name
            call.extend(arguments)
            if call.num_chars > _MAX_ARGUMENTS:
                raise InvalidResponse("the model wrote a tool call of more than 1 MiB")
            yield from self._send(call)

    def _send(self, call: _Call) -> Iterator[ToolCallDelta]:
        """Nothing is sent of a call before its name, which the first piece must carry."""
        if not call.name:
            return
        piece = call.take_unsent()
        if piece or not call.announced:
            name = "" if call.announced else call.name
            call.announced = True
            yield ToolCallDelta(index=call.number, call_id=call.id, name=name, arguments=piece)

    def finish(
        self, *, truncated: bool = False
    ) -> tuple[tuple[ToolCallDelta, ...], tuple[ToolCall, ...]]:
        """The last deltas, and the calls. Of an answer cut short, calls that are not whole are
        left out: half a file must not be written."""
        deltas: list[ToolCallDelta] = []
        calls: list[ToolCall] = []
        for call in self._calls:
            if truncated and not call.complete:
                continue
            if call.is_blank:
                call.extend("{}")
            deltas.extend(self._send(call))
            calls.append(ToolCall(id=call.id, name=call.name, arguments=call.arguments))
        return tuple(deltas), tuple(calls)

    def _find(
        self, item: Mapping[str, object], name: str, position: int, num_items: int, before: int
    ) -> _Call:
        own_id = _text(item.get("id")).strip()
        index = item.get("index")
        index = index if isinstance(index, int) and not isinstance(index, bool) else None
        if own_id and own_id in self._by_id:
            return self._by_id[own_id]
        current = self._by_index.get(index) if index is not None else None
        if index is None:
            current = self._unnumbered(name, position, num_items, before, own_id)
        if current is None or _begins_another(current, own_id, name):
            return self._begin(own_id, index)
        if own_id:  # the id came after the first piece
            current.has_own_id = True
            self._by_id[own_id] = current
            if not current.announced:
                current.id = own_id
        return current

    def _unnumbered(
        self, name: str, position: int, num_items: int, before: int, own_id: str
    ) -> _Call | None:
        """Without an index: position among the items of one delta, else the last call."""
        if num_items > 1:
            begun_here = len(self._calls) > before or before == 0
            if begun_here or name or own_id or before < num_items:
                return None
            return self._calls[before - num_items + position]
        return self._calls[-1] if self._calls else None

    def _begin(self, own_id: str, index: int | None) -> _Call:
        if len(self._calls) == _MAX_CALLS:
            raise InvalidResponse(f"the model made more than {_MAX_CALLS} tool calls at once")
        call = _Call(number=len(self._calls), id=own_id or self._new_id(), has_own_id=bool(own_id))
        self._calls.append(call)
        self._by_id[call.id] = call
        if index is not None:
            self._by_index[index] = call
        return call


def _begins_another(current: _Call, own_id: str, name: str) -> bool:
    """Whether a piece that claims the place of `current` is the start of another call."""
    if own_id and current.has_own_id:
        return True
    return bool(name) and bool(current.name) and current.complete


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _arguments(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
