"""What is known of one model at one endpoint."""

from __future__ import annotations

from dataclasses import field

from qcode.protocol.values import dataclass
from qcode.wire.openai_request import Dialect


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointProfile:
    """`context_window` is in tokens, None where the server does not say. `fenced_calls`: the model
    writes its calls in code blocks, where they are else not looked for. `server` is its kind and
    version, for people; `checked` the day the profile was kept (ISO 8601)."""

    context_window: int | None = None
    fenced_calls: bool = False
    dialect: Dialect = field(default_factory=Dialect)
    server: str = ""
    checked: str = ""
