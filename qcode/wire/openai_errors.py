"""The errors of OpenAI-compatible endpoints, as ours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from qcode.protocol.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    ContextOverflow,
    InvalidResponse,
    RateLimited,
)

# How servers say that a request does not fit: OpenAI, vLLM, SGLang, llama.cpp, llama-cpp-python,
# Ollama, LM Studio, OpenRouter, Model Studio, Together, TGI, Fireworks, and gateways to others.
_OVERFLOW_MARKS: Sequence[str] = (
    "context_length_exceeded",
    "exceed_context_size",
    "maximum context length",
    "max context length",
    "exceeds the context length",
    "exceeds model's maximum",
    "model's context length",
    "maximum model length",
    "context window",
    "context size",
    "context length of only",
    "context overflow",
    "context shift is disabled",
    "greater than the context length",
    "reached context length",
    "range of input length",
    "max_new_tokens` must be <=",
    "inputs` must have less than",
    "max_total_tokens",
    "prompt is too long",
    "prompt too long",
    "input is too long",
)
_WINDOW = re.compile(
    r"""(?:
        (?:context|model)\ (?:length|window|size)(?:\ is|\ of(?:\ only)?|:)?\ \(?(\d+)
        | model's\ (?:maximum\ )?context\ length\ \((\d+)
        | range\ of\ input\ length\ should\ be\ \[1,\ ?(\d+)\]
        | must\ be\ <=\ (\d+)
        | must\ have\ less\ than\ (\d+)
        | "n_ctx"\s*:\s*(\d+)
    )""",
    re.VERBOSE | re.IGNORECASE,
)


def error_message(payload: object) -> str:
    """What a server said went wrong; empty where it said nothing that can be read."""
    found = payload.get("error", payload) if isinstance(payload, Mapping) else payload
    if isinstance(found, Mapping):
        found = found.get("message") or found.get("detail") or ""
    if isinstance(found, (list, Mapping)):
        found = json.dumps(found)
    return found if isinstance(found, str) else ""


def error_from_payload(
    payload: object, *, status: int | None = None, retry_after_s: float | None = None
) -> BackendError:
    """The error a payload stands for. `status` is None inside a stream that began well."""
    said = error_message(payload)
    error = payload.get("error", payload) if isinstance(payload, Mapping) else None
    code = error.get("code") if isinstance(error, Mapping) else None
    kind = error.get("type") if isinstance(error, Mapping) else None
    if status is None and isinstance(code, int):
        status = code
    if status in (None, 400, 413, 422, 500) and _is_overflow(f"{code} {kind} {said}".lower()):
        return ContextOverflow(said or "the request does not fit the model's context window")
    if status in (401, 403):
        return AuthenticationFailed(said or "the endpoint refused the key")
    if status == 429 or code in ("rate_limit_exceeded", "rate_limit_error"):
        return RateLimited(said or "too many requests", retry_after_s=retry_after_s)
    if status is None or status in (408, 409, 425) or status >= 500:
        return BackendUnavailable(said or f"the endpoint failed ({status or 'in its stream'})")
    return InvalidResponse(said or f"the endpoint refused the request ({status})")


def stated_window(message: str) -> int | None:
    """The window in tokens that the message of an overflow names, if it does."""
    found = _WINDOW.search(message)
    return int(next(filter(None, found.groups()))) if found else None


def _is_overflow(text: str) -> bool:
    return any(mark in text for mark in _OVERFLOW_MARKS)
