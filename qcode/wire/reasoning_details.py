"""Thinking in parts that a server wants back as they came: OpenRouter's `reasoning_details`.

A part is text, a summary or something encrypted, with a signature perhaps, and comes in pieces.
Models check what they get back, so nothing of a part is left out, changed or put elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

JsonObject = dict[str, object]
_GROWING = {"reasoning.text": "text", "reasoning.summary": "summary"}


@dataclass(slots=True)
class _Part:
    fields: JsonObject
    pieces: list[str] = field(default_factory=list)

    @property
    def growing(self) -> str | None:
        """The field that comes in pieces; None where each piece is a part."""
        return _GROWING.get(str(self.fields.get("type")))

    def continued_by(self, item: JsonObject) -> bool:
        if self.growing is None or item.get("type") != self.fields.get("type"):
            return False
        return all(
            item.get(key) is None or self.fields.get(key) in (None, item[key])
            for key in ("index", "id")
        )

    def add(self, item: JsonObject) -> str:
        """The text that a piece adds."""
        for key, value in item.items():
            if self.fields.get(key) is None:
                self.fields[key] = value
        text = item.get(self.growing) if self.growing else None
        if not isinstance(text, str):
            return ""
        self.pieces.append(text)
        return text

    def whole(self) -> JsonObject:
        if self.growing is None or not self.pieces:
            return self.fields
        return {**self.fields, self.growing: "".join(self.pieces)}


class ReasoningDetails:
    """Collects the parts of one answer."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []

    def feed(self, items: object) -> str:
        """Takes what one event holds under `reasoning_details`; the text in it, for people."""
        texts = []
        for item in items if isinstance(items, list) else []:
            if not isinstance(item, dict):
                continue
            if not (self._parts and self._parts[-1].continued_by(item)):
                self._parts.append(_Part({"type": item.get("type")}))
            texts.append(self._parts[-1].add(item))
        return "".join(texts)

    def written(self) -> str:
        """The list as JSON; empty where nothing came."""
        parts = [part.whole() for part in self._parts]
        return json.dumps(parts, ensure_ascii=False, separators=(",", ":")) if parts else ""
