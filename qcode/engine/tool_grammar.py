"""Offered tools -> a grammar of what a model may write after `<tool_call>`.

The text is a Lark grammar as llguidance reads it. The parameters of a call come in any order and
each at most once, the required ones always: a rule with one bit for each parameter
(llguidance's parametric grammars, expanded lazily) says so without listing the orders. Inside a
value, objects have their fields in the order of their schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from qcode.engine.chat.arguments import Parameters

CallFormat = Literal["json", "tags"]
"""`{"name": ..., "arguments": {...}}`, or Qwen3-Coder's `<function=...>` and `<parameter=...>`."""

# As the templates write calls; where any white space may stand, a weak model writes it for ever.
JSON_STYLE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": True,  # what cannot be expressed, such as `uniqueItems`, does not constrain
}
_MAX_PARAMETERS = 60  # bits of a rule's parameter
_END = "\n</parameter>"
_TEXT = f"""
text[suffix={json.dumps(_END)}]: /(?s:.*)/
some_text[suffix={json.dumps(_END)}]: /\\n*([^\\n<]|<[^\\/\\n])(?s:.*)/
any_parameter: "<parameter=" /[A-Za-z0-9_.\\-]{{1,64}}/ ">\\n" text "\\n"
"""


def call_grammar(
    tools: Iterable[tuple[str, Mapping[str, object]]],
    form: CallFormat,
    compiles: Callable[[str], bool],
    *,
    tagged: bool = True,
) -> str:
    """`tools` are names and argument schemas (JSON Schema). `compiles` says whether llguidance
    accepts a grammar: a schema it does not accept leaves its value free. Only what a schema names
    may be written, unless it names nothing.

    The text begins after the token `<tool_call>` and ends with `</tool_call>`. Not `tagged`, it
    begins with `{"name"` or `<function=`, and a line's end may follow the call."""
    described = [_Tool.read(index, name, schema) for index, (name, schema) in enumerate(tools)]
    calls = " | ".join(f"call_{tool.index}" for tool in described)
    write = _json_rules if form == "json" else _tag_rules
    line = '"\\n" ' if tagged else ""
    opening = line + ("" if form == "json" else '"<function=" ')
    closing = '"\\n" </tool_call>' if tagged else '"\\n"?'
    rules = [rule for tool in described for rule in write(tool, _ValueRules(tool, compiles))]
    return "\n".join(
        ["%llguidance {}", f"start: {opening}({calls}) {closing}", *rules]
        + ([_TEXT] if form == "tags" else [])
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    """`names` has the required parameters first, `num_required` of them; None: any may be given."""

    index: int
    name: str
    schema: Mapping[str, object]
    names: tuple[str, ...] | None
    num_required: int

    @classmethod
    def read(cls, index: int, name: str, schema: Mapping[str, object]) -> _Tool:
        properties, required = schema.get("properties"), schema.get("required")
        required = required if isinstance(required, list) else []
        listed = [key for key in required if isinstance(key, str)]
        known = list(properties) if isinstance(properties, dict) else []
        names = list(dict.fromkeys([*listed, *known]))
        closed = bool(names) or schema.get("additionalProperties") is False
        if not closed and isinstance(properties, dict) and schema.keys() <= _PLAIN_KEYS:
            closed = True  # a tool without parameters, as pydantic describes it
        return cls(
            index=index,
            name=name,
            schema=schema,
            names=tuple(names) if closed and len(names) <= _MAX_PARAMETERS else None,
            num_required=len(set(listed)),
        )

    @property
    def complete(self) -> str:
        """The condition that all required parameters have been given."""
        return f" %if is_ones([0:{self.num_required}])" if self.num_required else ""


_PLAIN_KEYS = frozenset({"type", "properties", "title", "description", "$schema"})


class _ValueRules:
    """Rules for the values of one tool's parameters."""

    def __init__(self, tool: _Tool, compiles: Callable[[str], bool]) -> None:
        self._tool = tool
        self._compiles = compiles
        self._parameters = Parameters(tool.schema)

    def json(self, name: str) -> str:
        """The right-hand side of a rule for JSON of the parameter's schema."""
        schema = self._schema(name)
        for attempt in (schema, _only_types(self._parameters.types(name))):
            rule = f"%json {_dump({**attempt, 'x-guidance': JSON_STYLE})}"
            if self._compiles(f"start: {rule}"):
                return rule
        return f"%json {_dump({'x-guidance': JSON_STYLE})}"

    def tagged(self, name: str) -> str:
        """The same for the value and its closing tag: strings are text, all else is JSON."""
        types = self._parameters.types(name)
        schema = self._schema(name)
        listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if isinstance(listed, list) and listed and all(isinstance(item, str) for item in listed):
            return f"({' | '.join(_dump(item + _END) for item in listed)})"
        if types and "string" not in types:
            return f"value_{self._tool.index}_{self._position(name)} {_dump(_END)}"
        return "some_text" if _needs_a_character(schema) else "text"

    def _position(self, name: str) -> int:
        return (self._tool.names or ()).index(name)

    def _schema(self, name: str) -> dict[str, object]:
        """The parameter's schema, with the definitions it may refer to."""
        properties = self._tool.schema.get("properties")
        found = properties.get(name) if isinstance(properties, dict) else None
        definitions = {
            key: self._tool.schema[key]
            for key in ("$defs", "definitions")
            if key in self._tool.schema
        }
        return {**definitions, **found} if isinstance(found, dict) else {}


def _needs_a_character(schema: Mapping[str, object]) -> bool:
    shortest = schema.get("minLength")
    return isinstance(shortest, int) and shortest > 0


def _only_types(types: frozenset[str]) -> dict[str, object]:
    return {"type": sorted(types)} if types else {}


def _json_rules(tool: _Tool, values: _ValueRules) -> Iterator[str]:
    number = tool.index
    opening = _dump('{"name": ' + _dump(tool.name) + ', "arguments":')
    yield f'call_{number}: {opening} " "? arguments_{number} "}}"'
    if tool.names is None:
        yield f"arguments_{number}: %json {_dump({'type': 'object', 'x-guidance': JSON_STYLE})}"
        return
    empty = [] if tool.num_required else ['"{}"']
    some = [f'"{{" members_{number}::0x0'] if tool.names else []
    yield f"arguments_{number}: " + " | ".join(empty + some)
    if not tool.names:
        return
    yield f"members_{number}::_: " + "\n  | ".join(
        f"{_dump(_dump(name) + ': ')} value_{number}_{bit} rest_{number}::set_bit({bit}) "
        f"%if bit_clear({bit})"
        for bit, name in enumerate(tool.names)
    )
    count = len(tool.names)
    yield (
        f'rest_{number}::_: "}}"{tool.complete}\n'
        f'  | ", " members_{number}::_ %if bit_count_lt([0:{count}], {count})'
    )
    for bit, name in enumerate(tool.names):
        yield f"value_{number}_{bit}: {values.json(name)}"


def _tag_rules(tool: _Tool, values: _ValueRules) -> Iterator[str]:
    number = tool.index
    call = f"call_{number}: {_dump(tool.name + '>' + chr(10))}"
    if not tool.names:
        anything = " any_parameter*" if tool.names is None else ""
        yield f'{call}{anything} "</function>"'
        return
    yield f"{call} body_{number}::0x0"
    written = {name: values.tagged(name) for name in tool.names}
    yield f'body_{number}::_: "</function>"{tool.complete}\n  | ' + "\n  | ".join(
        f"{_dump(f'<parameter={name}>' + chr(10))} {written[name]} {_dump(chr(10))} "
        f"body_{number}::set_bit({bit}) %if bit_clear({bit})"
        for bit, name in enumerate(tool.names)
    )
    for bit, name in enumerate(tool.names):
        if written[name].startswith("value_"):
            yield f"value_{number}_{bit}: {values.json(name)}"


def _dump(value: object) -> str:
    """JSON, in which form Lark grammars take strings too."""
    return json.dumps(value, ensure_ascii=False)
