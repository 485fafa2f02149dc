"""The seam to a model: one request in, one stream of chunks out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import field
from typing import Literal, Protocol, runtime_checkable

from qcode.protocol.chunks import Chunk
from qcode.protocol.messages import Message
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import ToolSpec
from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """`strength` picks strategies: a small model fails as a free tool-calling agent and needs the
    harness to lead. `constrains` says that `ChatRequest.answer` is honoured."""

    name: str
    context_window: int | None
    strength: Literal["small", "large"] = "large"
    constrains: bool = False
    local: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerShape:
    """How an answer must look. Only `schema` is also for backends without
    `ModelInfo.constrains`: they ask the server for it, which may or may not obey.

    `schema` is a JSON Schema that the whole of the answer's text obeys. `grammar` is a Lark grammar
    as llguidance reads it, over the answer's text. The answer is sampled under the grammar token by
    token and nothing is forced on top of it, so its tokens are the natural ones. `prefix_ids` are
    tokens of an earlier answer's `trace` that this one continues; they are part of the answer and
    of the grammar's text. `trace` asks for a `TokenChoice` for each token after the prefix.
    """

    schema: Mapping[str, object] | None = None
    grammar: str | None = None
    prefix_ids: tuple[int, ...] = ()
    trace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    answer: AnswerShape | None = None


class Backend(Protocol):
    @property
    def model(self) -> ModelInfo: ...

    def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Deltas, then exactly one `Completed`. Raises `BackendError` or `EngineError`. Closing
        the generator aborts the request. Several streams may be open at once."""
        ...

    async def aclose(self) -> None: ...


@runtime_checkable
class CountsTokens(Protocol):
    """A backend that has its model's vocabulary at hand."""

    def count_tokens(self, request: ChatRequest) -> int:
        """Tokens of the prompt, exactly as they would be sent. Blocks: call it in a thread.
        Raises `EngineError`."""
        ...
