"""Learning a server's dialect from what it refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from qcode.wire.openai_request import Dialect

OPTIONAL_FIELDS = (
    "stream_options",
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "response_format",
)
"""Request fields an answer can do without."""

MAX_ADAPTATIONS = 6
_WANTED = re.compile(r"pass(?:ed)? back|missing|required|must be (?:present|provided)")
_THINKING = re.compile(
    r"reasoning_(?:content|details)|reasoning field|th(?:inking|ought)[ _](?:block|signature)"
    r"|signature in"
)
_UNKNOWN = re.compile(
    r"support|recogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra|additional"
    r"|not accept|no such|invalid (?:field|parameter|argument)"
)


def adapted(dialect: Dialect, refusal: str, body: Mapping[str, object]) -> Dialect | None:
    """The dialect that may please a server which refused `body` with these words; None where they
    name nothing that can be changed."""
    words = refusal.lower()
    if "max_completion_tokens" in words and "max_tokens" in body:
        return replace(dialect, max_tokens_field="max_completion_tokens")
    if _THINKING.search(words) is not None:
        wanted = _WANTED.search(words) is not None and dialect.reasoning != "require"
        changed = replace(dialect, reasoning="require" if wanted else "drop")
        return changed if changed != dialect else None
    if _UNKNOWN.search(words) is None:
        return None  # a value that is refused is the user's to change, and must not vanish
    refused = {name for name in OPTIONAL_FIELDS if name in body and _names(words, name)}
    return replace(dialect, omitted=dialect.omitted | refused) if refused else None


def _names(words: str, field: str) -> bool:
    """Whether the field is named as such: `stop` is an ordinary word too."""
    named = rf"[\"'`]{field}[\"'`]|\b{field}:" if field == "stop" else rf"\b{field}\b"
    return re.search(named, words) is not None
