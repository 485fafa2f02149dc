"""A model behind any URL that speaks Chat Completions."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

from qcode.backends.http import ChatEndpoint, RequestFailed, Timers
from qcode.backends.retry import Failure, retry_wait_s
from qcode.engine.chat.answer import AnswerParser, stop_reason
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
from qcode.wire.openai_chat import StreamDecoder
from qcode.wire.openai_request import encode_request

if TYPE_CHECKING:
    import httpx

_CONTEXT_KEYS = ("max_model_len", "context_length", "context_window", "max_context_length")


class OpenAICompatibleBackend:
    """`base_url` is accepted with or without `/v1`. Without `model` the first one the server
    lists is used; `model.name` is empty until it has been asked. `extra_body` is added to each
    request as it stands. `jitter`, in [0, 1), spreads retries; `transport` replaces the network
    in tests."""

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
        timers: Timers | None = None,
        jitter: Callable[[], float] = random.random,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._endpoint = ChatEndpoint(
            base_url, api_key=api_key, headers=headers, timers=timers, transport=transport
        )
        self._jitter = jitter
        self._extra_body = dict(extra_body or {})
        self._model = ModelInfo(name=model or "", context_window=context_window, strength=strength)

    @property
    def model(self) -> ModelInfo:
        return self._model

    async def aclose(self) -> None:
        await self._endpoint.aclose()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """A failed try that may be mended is announced by `Retrying` and made again."""
        tries = breaks = 0
        while True:
            tries += 1
            try:
                async with aclosing(self._try(request)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except RequestFailed as failed:
                breaks += failed.failure.kind == "broken"
                wait_s = retry_wait_s(
                    failed.failure, tries=tries, breaks=breaks, jitter=self._jitter
                )
                if wait_s is None:
                    raise failed.error from failed
                yield Retrying(attempt=tries, wait_s=wait_s, reason=failed.error.message)
            await asyncio.sleep(wait_s)

    async def _try(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        if not self._model.name:
            self._model = await self._listed_model()
        body = encode_request(request, model=self._model.name, extra_body=self._extra_body)
        answer = _Answer(AnswerParser(request.tools))
        done = False
        async with aclosing(self._endpoint.post_events("chat/completions", body)) as events:
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
        if not (done or answer.decoder.finished):
            error = BackendUnavailable(f"{self._endpoint.shown_url} broke off its answer")
            raise RequestFailed(Failure(kind="broken"), error)
        deltas, message = answer.finish(self._model.name)
        for delta in deltas:
            yield delta
        yield Completed(message=message)

    async def _listed_model(self) -> ModelInfo:
        """Which model answers where none was named. Raises RequestFailed."""
        listed = await self._endpoint.get_json("models")
        return _first_model(listed, self._model, self._endpoint.shown_url)

    def _failed_inside(self, error: BackendError) -> RequestFailed:
        """An error that came as an event: the status line had promised success."""
        error.message = f"{self._endpoint.shown_url} failed: {self._endpoint.redact(error.message)}"
        error.args = (error.message,)
        if isinstance(error, RateLimited):
            return RequestFailed(Failure(kind="status", status=429), error)
        final = isinstance(error, (ContextOverflow, InvalidResponse))
        return RequestFailed(Failure(kind="final" if final else "broken"), error)


class _Answer:
    """One streamed answer. Its text passes a parser, because servers leave thinking and calls in
    it; calls found there count where the server itself reports none."""

    def __init__(self, parser: AnswerParser) -> None:
        self.decoder = StreamDecoder()
        self._parser = parser
        self._reasoning: list[str] = []

    def feed(self, event: Mapping[str, object]) -> list[Delta]:
        deltas: list[Delta] = []
        for delta in self.decoder.feed(event):
            if isinstance(delta, TextDelta):
                deltas.extend(self._shown(list(self._parser.feed(delta.text))))
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
        deltas = self._shown(list(self._parser.flush(truncated=truncated)))
        written = self._parser.finish(truncated=truncated)
        last, calls = self.decoder.calls.finish(truncated=truncated)
        blocks: list[Block] = []
        if self._reasoning:
            blocks.append(ReasoningBlock(text="".join(self._reasoning)))
        blocks.extend(block for block in written if not (calls and isinstance(block, ToolCall)))
        blocks.extend(calls)
        message = AssistantMessage(
            blocks=tuple(blocks),
            stop_reason=stop_reason(blocks, truncated=truncated),
            model=self.decoder.model or model,
            usage=self.decoder.usage,
        )
        return [*deltas, *last], message


def _first_model(listed: object, info: ModelInfo, url: str) -> ModelInfo:
    models = listed.get("data") if isinstance(listed, dict) else None
    first = models[0] if isinstance(models, list) and models else None
    name = first.get("id") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(name, str) or not name:
        raise RequestFailed(
            Failure(kind="final"),
            InvalidResponse(f"{url} lists no models", "name one with --model"),
        )
    return ModelInfo(
        name=name,
        context_window=info.context_window or _context_window(first),
        strength=info.strength,
    )


def _context_window(listed: Mapping[str, object]) -> int | None:
    meta = listed.get("meta")
    found = [listed.get(key) for key in _CONTEXT_KEYS]
    found.append(meta.get("n_ctx_train") if isinstance(meta, dict) else None)
    return next((value for value in found if isinstance(value, int) and value > 0), None)
