"""A model behind any URL that speaks Chat Completions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import fields, replace
from typing import Literal

from qcode.backends.adaptation import MAX_ADAPTATIONS, adapted
from qcode.backends.endpoint_profile import EndpointProfile
from qcode.backends.http import ChatEndpoint, RequestFailed, Timers
from qcode.backends.retry import Failure, retry_wait_s
from qcode.backends.server_facts import ask_server
from qcode.backends.server_text import ServerText
from qcode.backends.transport import Transport
from qcode.engine.chat.answer import stop_reason
from qcode.protocol.backends import ChatRequest, ModelInfo
from qcode.protocol.chunks import (
    Chunk,
    Completed,
    Delta,
    ReasoningDelta,
    Retrying,
    TextDelta,
    ToolCallDelta,
)
from qcode.protocol.errors import (
    BackendError,
    BackendUnavailable,
    ContextOverflow,
    InvalidResponse,
    RateLimited,
)
from qcode.protocol.messages import (
    AssistantMessage,
    Block,
    ReasoningBlock,
    ToolCall,
)
from qcode.protocol.sampling import SamplingParams
from qcode.wire.openai_chat import StreamDecoder, has_output
from qcode.wire.openai_errors import stated_window
from qcode.wire.openai_request import JsonObject, encode_request, unstreamed
from qcode.wire.written_messages import WrittenMessages

_TOKENS_PER_BYTE = 0.3  # of JSON with code in it, until an answer's usage tells
_MARGIN_TOKENS = 64
_MIN_ANSWER_TOKENS = 256


class OpenAICompatibleBackend:
    """`base_url` is accepted with or without `/v1`. Without `model` the first one the server
    lists is used; `model.name` is empty until it has been asked.

    `extra_body` is added to each request as it stands; `sampling` fills in what a request leaves
    open. `profile` is what is known of the endpoint; `on_learned` gets it with the model's name
    whenever an answer or a refusal has added to it. `notices` are lines for the person. `jitter`,
    in [0, 1), spreads retries; `transport` replaces the network in tests.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str | None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        context_window: int | None = None,
        strength: Literal["small", "large"] = "large",
        extra_body: Mapping[str, object] | None = None,
        sampling: SamplingParams | None = None,
        profile: EndpointProfile | None = None,
        on_learned: Callable[[str, EndpointProfile], None] | None = None,
        notices: tuple[str, ...] = (),
        timers: Timers | None = None,
        jitter: Callable[[], float] = random.random,
        transport: Transport | None = None,
    ) -> None:
        self._endpoint = ChatEndpoint(
            base_url, api_key=api_key, headers=headers, timers=timers, transport=transport
        )
        self._jitter = jitter
        self._extra_body = dict(extra_body or {})
        self._sampling = sampling or SamplingParams()
        self._profile = profile or EndpointProfile()
        self._on_learned = on_learned
        self._tokens_per_byte = _TOKENS_PER_BYTE
        self._messages = WrittenMessages()
        self.notices = notices
        window = context_window or self._profile.context_window
        self._model = ModelInfo(name=model or "", context_window=window, strength=strength)

    @property
    def model(self) -> ModelInfo:
        return self._model

    async def aclose(self) -> None:
        await self._endpoint.aclose()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """A failed try that may be mended is announced by `Retrying` and made again. One that was
        refused for the way it was worded is worded anew, unannounced."""
        request = replace(request, sampling=_filled(request.sampling, self._sampling))
        tries = breaks = adaptations = 0
        streamed = True
        while True:
            tries += 1
            body: JsonObject = {}
            try:
                if not self._model.name:
                    await self._ask_for_model()
                body = self._body(request)
                sent = body if streamed else unstreamed(body)
                async with aclosing(self._try(request, sent)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except RequestFailed as failed:
                if adaptations < MAX_ADAPTATIONS and self._adapt(failed, body):
                    adaptations += 1
                    tries -= 1
                    continue
                # Some servers begin a stream and then find that they cannot answer: only without
                # one do they say why.
                streamed = not isinstance(failed, _NothingCame)
                breaks += failed.failure.kind == "broken"
                wait_s = retry_wait_s(
                    failed.failure, tries=tries, breaks=breaks, jitter=self._jitter
                )
                if wait_s is None:
                    raise failed.error from failed
                yield Retrying(attempt=tries, wait_s=wait_s, reason=failed.error.message)
            await asyncio.sleep(wait_s)

    async def _try(self, request: ChatRequest, body: JsonObject) -> AsyncGenerator[Chunk, None]:
        answer = _Answer(ServerText(request.tools, fenced_calls=self._profile.fenced_calls))
        done = False
        sent = self._messages.request(body)
        events = self._endpoint.post_events("chat/completions", sent, has_output=has_output)
        async with aclosing(events):
            async for event in events:
                if event is None:
                    done = True
                    break
                try:
                    deltas = answer.feed(event)
                except BackendError as failure:
                    raise self._failed_inside(failure) from failure
                for delta in deltas:
                    yield delta
        if not (answer.decoder.finished or (done and answer.decoder.begun)):
            raise self._ended_early(answer.decoder, done)
        deltas, message = answer.finish(self._model.name)
        for delta in deltas:
            yield delta
        self._learn_from(answer.decoder, body)
        yield Completed(message=message)

    # Requests

    def _body(self, request: ChatRequest) -> JsonObject:
        body = encode_request(
            request,
            model=self._model.name,
            dialect=self._profile.dialect,
            extra_body=self._extra_body,
            messages=self._messages.encode(request.messages, self._profile.dialect),
        )
        field = self._profile.dialect.max_tokens_field
        window, asked = self._model.context_window, body.get(field)
        if window is not None and isinstance(asked, int):
            prompt_tokens = round(self._messages.num_bytes(body) * self._tokens_per_byte)
            left = window - prompt_tokens - _MARGIN_TOKENS
            body[field] = min(asked, max(left, _MIN_ANSWER_TOKENS))
        return body

    async def _ask_for_model(self) -> None:
        """Which model answers where none was named. Raises RequestFailed."""
        facts = await ask_server(self._endpoint, None)
        window = self._model.context_window or facts.context_window
        self._model = replace(self._model, name=facts.model, context_window=window)

    # What answers teach

    def _learn_from(self, decoder: StreamDecoder, body: JsonObject) -> None:
        num_bytes = self._messages.num_bytes(body) if decoder.usage.input_tokens else 0
        if num_bytes >= 1000:
            measured = decoder.usage.input_tokens / num_bytes
            self._tokens_per_byte = min(1.0, max(0.1, measured))
        dialect, seen = self._profile.dialect, decoder.reasoning_field
        # A server that sends details sends the bare text too, now and then without them.
        if seen not in ("", dialect.reasoning_field) and not (
            seen == "reasoning" and dialect.reasoning_field == "reasoning_details"
        ):
            self._learned(dialect=replace(dialect, reasoning_field=seen))

    def _adapt(self, failed: RequestFailed, body: JsonObject) -> bool:
        """Whether the same request can be put differently now."""
        error = failed.error
        if isinstance(error, ContextOverflow):
            return self._learn_window(error, body)
        if not isinstance(error, InvalidResponse) or failed.failure.status not in (400, 422):
            return False
        dialect = adapted(self._profile.dialect, error.message, body)
        if dialect is None:
            return False
        self._learned(dialect=dialect)
        return True

    def _learn_window(self, error: ContextOverflow, body: JsonObject) -> bool:
        """A refusal often names the window. That may be all it takes: the prompt may fit, and only
        the room asked for its answer be too large."""
        window, known = stated_window(error.message), self._model.context_window
        if window is None or (known is not None and known <= window):
            return False
        self._model = replace(self._model, context_window=window)
        self._learned(context_window=window)
        num_tokens = self._messages.num_bytes(body) * self._tokens_per_byte
        fits = num_tokens < window - _MIN_ANSWER_TOKENS
        return fits and self._profile.dialect.max_tokens_field in body

    def _learned(self, **changes: object) -> None:
        self._profile = replace(self._profile, **changes)  # type: ignore[arg-type]
        if self._on_learned is not None:
            self._on_learned(self._model.name, self._profile)

    def _ended_early(self, decoder: StreamDecoder, done: bool) -> RequestFailed:
        what = "answered with something that is not a completion" if done else "broke off"
        error = BackendUnavailable(f"{self._endpoint.shown_url} {what}")
        kind = RequestFailed if decoder.begun else _NothingCame
        return kind(Failure(kind="broken"), error)

    def _failed_inside(self, error: BackendError) -> RequestFailed:
        """An error that came as an event: the status line had promised success."""
        error.message = f"{self._endpoint.shown_url} failed: {self._endpoint.redact(error.message)}"
        error.args = (error.message,)
        if isinstance(error, RateLimited):
            return RequestFailed(Failure(kind="status", status=429), error)
        final = isinstance(error, (ContextOverflow, InvalidResponse))
        return RequestFailed(Failure(kind="final" if final else "broken"), error)


class _NothingCame(RequestFailed):
    """A stream that ended without a piece of an answer."""


class _Answer:
    """One streamed answer. Its text passes a parser, because servers leave thinking and calls in
    it; calls found there count where the server itself reports none."""

    def __init__(self, text: ServerText) -> None:
        self.decoder = StreamDecoder()
        self._text = text
        self._reasoning: list[str] = []

    def feed(self, event: Mapping[str, object]) -> list[Delta]:
        deltas: list[Delta] = []
        for delta in self.decoder.feed(event):
            if isinstance(delta, TextDelta):
                deltas.extend(self._shown(self._text.feed(delta.text)))
                continue
            if isinstance(delta, ReasoningDelta):
                self._reasoning.append(delta.text)
            deltas.append(delta)
        return deltas

    def _shown(self, deltas: list[Delta]) -> list[Delta]:
        """Calls in text are not shown beside those the server reports: theirs are the numbers."""
        if not self.decoder.calls:
            return deltas
        return [delta for delta in deltas if not isinstance(delta, ToolCallDelta)]

    def finish(self, model: str) -> tuple[list[Delta], AssistantMessage]:
        truncated = self.decoder.truncated
        deltas, written = self._text.finish(truncated=truncated)
        last, calls = self.decoder.calls.finish(truncated=truncated)
        blocks: list[Block] = []
        details = self.decoder.reasoning_details.written()
        if self._reasoning or details:
            blocks.append(ReasoningBlock(text="".join(self._reasoning), details=details))
        blocks.extend(block for block in written if not (calls and isinstance(block, ToolCall)))
        blocks.extend(calls)
        message = AssistantMessage(
            blocks=tuple(blocks),
            stop_reason=stop_reason(blocks, truncated=truncated),
            model=self.decoder.model or model,
            usage=self.decoder.usage,
        )
        return [*self._shown(deltas), *last], message


def _filled(asked: SamplingParams, defaults: SamplingParams) -> SamplingParams:
    """`asked`, with the defaults where it leaves something open."""
    changes = {
        each.name: getattr(defaults, each.name)
        for each in fields(SamplingParams)
        if getattr(asked, each.name) in (None, ())
    }
    return replace(asked, **changes)
