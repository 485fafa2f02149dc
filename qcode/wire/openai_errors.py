"""The errors of OpenAI-compatible endpoints, as ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from qcode.protocol.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    ContextOverflow,
    InvalidResponse,
    RateLimited,
)

_OVERFLOW_MARKS: Sequence[str] = (
    "context_length_exceeded",
    "exceed_context_size",
    "maximum context length",
    "context window",
    "context size",
    "prompt is too long",
)


def error_message(payload: object) -> str:
    """What a server said went wrong; empty where it said nothing that can be read."""
    found = payload.get("error", payload) if isinstance(payload, Mapping) else payload
    if isinstance(found, Mapping):
        found = found.get("message") or found.get("detail") or ""
    if isinstance(found, list):
        found = json.dumps(found)
    return found if isinstance(found, str) else ""


def error_from_payload(
    payload: object, *, status: int | None = None, retry_after_s: float | None = None
) -> BackendError:
    """The error a payload stands for. `status` is None inside a stream that began well."""
    said = error_message(payload)
    error = payload.get("error") if isinstance(payload, Mapping) else None
    code = error.get("code") if isinstance(error, Mapping) else None
    if status is None and isinstance(code, int):
        status = code
    if status in (None, 400, 413, 422, 500) and _is_overflow(f"{code} {said}".lower()):
        return ContextOverflow(said or "the request does not fit the model's context window")
    if status in (401, 403):
        return AuthenticationFailed(said or "the endpoint refused the key")
    if status == 429 or code in ("rate_limit_exceeded", "rate_limit_error"):
        return RateLimited(said or "too many requests", retry_after_s=retry_after_s)
    if status is None or status in (408, 409, 425) or status >= 500:
        return BackendUnavailable(said or f"the endpoint failed ({status or 'in its stream'})")
    return InvalidResponse(said or f"the endpoint refused the request ({status})")


def _is_overflow(text: str) -> bool:
    return any(mark in text for mark in _OVERFLOW_MARKS)
