"""Tools as the model is told of them, in as few tokens as say everything."""

from __future__ import annotations

from typing import Any

from qcode.protocol.tools import Tool, ToolSpec

_NAMED_CHILDREN = ("properties", "$defs")


def tool_spec(tool: Tool[Any]) -> ToolSpec:
    schema = _without_titles(tool.parameters.model_json_schema())
    return ToolSpec(name=tool.name, description=tool.description, schema=schema)


def _without_titles(schema: dict[str, Any]) -> dict[str, Any]:
    """pydantic gives each field and model a title that repeats its name: about a sixth of what
    the schemas of a set of tools take. A property that is itself called `title` stays."""
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "title" and isinstance(value, str):
            continue
        if key in _NAMED_CHILDREN and isinstance(value, dict):
            kept[key] = {name: _without_titles(child) for name, child in value.items()}
        elif key == "items" and isinstance(value, dict):
            kept[key] = _without_titles(value)
        elif key in {"anyOf", "allOf", "oneOf"} and isinstance(value, list):
            kept[key] = [_without_titles(child) for child in value]
        else:
            kept[key] = value
    return kept
