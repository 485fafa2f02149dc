"""One request of a probe and everything its raw events show."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from qcode.backends.adaptation import MAX_ADAPTATIONS, adapted
from qcode.backends.http import ChatEndpoint, RequestFailed
from qcode.backends.server_text import ServerText
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import TextDelta
from qcode.protocol.errors import BackendError, BackendUnavailable, InvalidResponse
from qcode.protocol.messages import ToolCall
from qcode.wire.openai_chat import StreamDecoder, has_output
from qcode.wire.openai_request import Dialect, JsonObject, encode_request, unstreamed


@dataclass(slots=True, kw_only=True)
class Observed:
    """What came back. `first_output_s` counts from the request to the first output; `error` is
    what the request failed with, and `status` its HTTP status, if it got that far."""

    decoder: StreamDecoder = field(default_factory=StreamDecoder)
    text: str = ""
    num_outputs: int = 0
    num_chars: int = 0
    first_output_s: float = 0.0
    error: BackendError | None = None
    status: int | None = None

    def reported_calls(self) -> tuple[ToolCall, ...]:
        return self.decoder.calls.finish(truncated=self.decoder.truncated)[1]

    def written_calls(self, request: ChatRequest, *, fenced_calls: bool) -> tuple[ToolCall, ...]:
        """The calls left in the text."""
        reader = ServerText(request.tools, fenced_calls=fenced_calls)
        reader.feed(self.text)
        _, blocks = reader.finish(truncated=self.decoder.truncated)
        return tuple(block for block in blocks if isinstance(block, ToolCall))


class ProbeRequests:
    """Sends requests one at a time. `dialect` is what the refusals so far have taught."""

    def __init__(self, endpoint: ChatEndpoint, model: str, dialect: Dialect) -> None:
        self._endpoint = endpoint
        self._model = model
        self.dialect = dialect

    async def ask(
        self, request: ChatRequest, extra_body: Mapping[str, object] | None = None
    ) -> Observed:
        """Never raises for what the endpoint does: that is what is observed."""
        seen = Observed()
        for _ in range(MAX_ADAPTATIONS):
            body = encode_request(
                request, model=self._model, dialect=self.dialect, extra_body=extra_body
            )
            seen = await self._send(body)
            if seen.error is None and not seen.decoder.begun:
                # Some servers begin a stream and then find that they cannot answer: only without
                # one do they say why.
                # The connection that this broke may be reused before its end is noticed.
                seen = await self._send(unstreamed(body))
                if isinstance(seen.error, BackendUnavailable):
                    seen = await self._send(unstreamed(body))
            if seen.error is None and not seen.decoder.begun:
                shown = self._endpoint.shown_url
                seen.error = InvalidResponse(f"{shown} answered with something else")
            if not isinstance(seen.error, InvalidResponse) or seen.status not in (400, 422):
                break
            dialect = adapted(self.dialect, seen.error.message, body)
            if dialect is None:
                break
            self.dialect = dialect
        if seen.decoder.reasoning_field:
            self.dialect = replace(self.dialect, reasoning_field=seen.decoder.reasoning_field)
        return seen

    async def _send(self, body: JsonObject) -> Observed:
        seen = Observed(num_chars=len(str(body.get("messages"))))
        start = time.monotonic()
        events = self._endpoint.post_events("chat/completions", body, has_output=has_output)
        try:
            async with aclosing(events):
                async for event in events:
                    if event is None:
                        break
                    if has_output(event):
                        seen.num_outputs += 1
                        seen.first_output_s = seen.first_output_s or time.monotonic() - start
                    for delta in seen.decoder.feed(event):
                        if isinstance(delta, TextDelta):
                            seen.text += delta.text
        except RequestFailed as failed:
            seen.error, seen.status = failed.error, failed.failure.status
        except BackendError as error:
            seen.error = error
        return seen
