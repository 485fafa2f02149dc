"""The bundled engine as a backend: conversation -> prompt tokens -> engine -> deltas and blocks.

torch is imported on first use, on the engine's thread where that is possible.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qcode.backends.shown_files import shown_files
from qcode.engine.async_engine import AsyncEngine
from qcode.engine.chat.answer import stop_reason
from qcode.engine.chat.template import ChatTemplate, ToolCallParser, choose_template
from qcode.engine.memory.context_window import context_notice, with_context_window
from qcode.engine.model_config import ModelConfig
from qcode.engine.options import EngineOptions
from qcode.protocol.backends import AnswerShape, ChatRequest, ModelInfo
from qcode.protocol.chunks import (
    Chunk,
    Completed,
    Delta,
    PrefillProgress,
    TextDelta,
    TokenChoice,
)
from qcode.protocol.messages import AssistantMessage, Block, TextBlock, Usage
from qcode.protocol.sampling import SamplingParams

if TYPE_CHECKING:
    from qcode.engine.engine import Engine
    from qcode.engine.grammar import Constraint
    from qcode.engine.scheduling.sequence import FinishReason, TokenOutput
    from qcode.engine.tokenizer import Tokenizer

_LARGE_PARAMETERS = 7_000_000_000


def strength(config: ModelConfig) -> Literal["small", "large"]:
    """Small models fail as free tool-calling agents. A mixture of experts does about as well as a
    dense model of the geometric mean of its parameters and of those active for a token."""
    alike = math.sqrt(config.num_parameters * config.num_active_parameters)
    return "small" if alike < _LARGE_PARAMETERS else "large"


class LocalBackend:
    """One checkpoint, loaded when it is first needed or when `start` is called."""

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        options: EngineOptions | None = None,
        progress: Callable[[float], None] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`progress` is called on the engine's thread with the share of the model that is
        loaded. `tell` gets lines for the person while a request is answered."""
        self._path = path
        self._name = name
        self._options = options or EngineOptions()
        self._progress = progress
        self._tell = tell
        self._engine: AsyncEngine | None = None
        self._template: ChatTemplate | None = None
        self._vocabulary: tuple[Tokenizer, ChatTemplate] | None = None
        self._model: ModelInfo | None = None
        self._notices: tuple[str, ...] | None = None

    @property
    def model(self) -> ModelInfo:
        """Read from the file's header; the weights are not touched. The context window may turn
        out smaller once the model is loaded, where memory is short. Raises `CheckpointError`,
        `UnsupportedModel`, `EngineError`."""
        if self._model is None:
            self._read_header()
        assert self._model is not None
        return self._model

    @property
    def notices(self) -> tuple[str, ...]:
        """What to tell a person about how the model will run. Raises as `model` does."""
        if self._notices is None:
            self._read_header()
        return self._notices or ()

    def _read_header(self) -> None:
        from qcode.engine.checkpoint.open import open_checkpoint

        own = open_checkpoint(self._path).config
        wanted = self._options.context_window
        config = with_context_window(own, wanted)
        self._model = self._info(config, min(wanted or own.context_window, config.context_window))
        notice = context_notice(own, wanted)
        self._notices = () if notice is None else (notice,)

    def _info(self, config: ModelConfig, context_window: int) -> ModelInfo:
        return ModelInfo(
            name=self._name,
            context_window=context_window,
            strength=strength(config),
            constrains=True,
            local=True,
        )

    def start(self) -> AsyncEngine:
        """Begin to load the model, and return at once."""
        if self._engine is None:
            self._engine = AsyncEngine.start(self._path, self._options, self._progress)
        return self._engine

    async def aclose(self) -> None:
        if self._engine is not None:
            await self._engine.aclose()

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """Raises `EngineError`, and `ContextOverflow` for a request that does not fit."""
        engines = self.start()
        engine = await engines.engine()
        self._model = self._info(engine.loaded.config, engine.context_window)
        tokenizer = engine.loaded.tokenizer
        template = self._chat_template(engine)
        self._vocabulary = (tokenizer, template)
        prompt = await asyncio.to_thread(lambda: tokenizer.encode_prompt(template.render(request)))
        shape = request.answer or AnswerShape()
        constraint = await asyncio.to_thread(_constraint, engine, template, request)
        parser = template.parser(request.tools, constrained=constraint is not None)
        answer = _Answer(tokenizer, parser, request.sampling.stop, shape.prefix_ids)
        sampling = request.sampling
        if shape.trace or sampling.logprobs is not None:
            # The runner-up is one of the best two.
            sampling = replace(sampling, logprobs=max(2, sampling.logprobs or 0))
        sources = await asyncio.to_thread(
            lambda: [
                tokenizer.encode(text)
                for text in shown_files(request.messages, template.call_format)
            ]
        )
        outputs = engines.generate(
            prompt,
            sampling,
            constraint=constraint,
            prefix_ids=shape.prefix_ids,
            sources=sources,
        )
        chunks = self._chunks(answer, outputs, len(prompt) + len(shape.prefix_ids))
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                while not engine.notices.empty():
                    self._tell(engine.notices.get())
                yield chunk

    def count_tokens(self, request: ChatRequest) -> int:
        """Needs the file's header and vocabulary only, not the weights."""
        if self._vocabulary is None:
            self._vocabulary = self._read_vocabulary()
        tokenizer, template = self._vocabulary
        return len(tokenizer.encode_prompt(template.render(request)))

    def _read_vocabulary(self) -> tuple[Tokenizer, ChatTemplate]:
        from qcode.engine.checkpoint.open import open_checkpoint
        from qcode.engine.models.loading import load_tokenizer, read_chat_template

        checkpoint = open_checkpoint(self._path)
        template = choose_template(
            architecture=checkpoint.config.architecture,
            jinja_source=read_chat_template(checkpoint),
        )
        return load_tokenizer(checkpoint), template

    async def complete(
        self, prefix: str, suffix: str | None, sampling: SamplingParams
    ) -> AsyncGenerator[Chunk, None]:
        """Plain text, without a conversation: what stands between `prefix` and `suffix`, or what
        follows `prefix` where there is no suffix. What looks like markup in them stays text, as
        does what looks like a call in the answer.

        Raises `EngineError`, also for a model that cannot fill in the middle, and
        `ContextOverflow` for text that does not fit.
        """
        from qcode.engine.fim import fim_prompt, fim_stop_ids

        engines = self.start()
        tokenizer = (await engines.engine()).loaded.tokenizer
        if suffix is None:
            prompt = await asyncio.to_thread(tokenizer.encode, prefix)
        else:
            prompt = await asyncio.to_thread(fim_prompt, tokenizer, prefix, suffix)
            sampling = replace(sampling, stop_ids=sampling.stop_ids + fim_stop_ids(tokenizer))
        answer = _Answer(tokenizer, _PlainText(), sampling.stop, ())
        chunks = self._chunks(answer, engines.generate(prompt, sampling), len(prompt))
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def _chunks(
        self, answer: _Answer, outputs: AsyncGenerator[TokenOutput, None], num_prompt_tokens: int
    ) -> AsyncGenerator[Chunk, None]:
        async with contextlib.aclosing(outputs):
            for delta in answer.begin():
                yield delta
            while not answer.is_finished:
                output = await anext(outputs)
                if output.prefill is not None:
                    yield PrefillProgress(
                        done_tokens=output.prefill.done_tokens,
                        total_tokens=output.prefill.total_tokens,
                        cached_tokens=output.prefill.cached_tokens,
                    )
                for delta in answer.feed(output):
                    yield delta
        yield answer.completed(self._name, num_prompt_tokens)

    def _chat_template(self, engine: Engine) -> ChatTemplate:
        if self._template is None:
            loaded = engine.loaded
            self._template = choose_template(
                architecture=loaded.config.architecture, jinja_source=loaded.chat_template
            )
        return self._template


def _constraint(engine: Engine, template: ChatTemplate, request: ChatRequest) -> Constraint | None:
    """The asked-for schema or grammar; else, where we know how calls are written, the offered
    tools."""
    if request.answer is not None and request.answer.schema is not None:
        return engine.grammars.json_value(request.answer.schema)
    if request.answer is not None and request.answer.grammar is not None:
        return engine.grammars.compile(request.answer.grammar)
    if not request.tools or template.call_format is None:
        return None
    tools = ((tool.name, tool.schema) for tool in request.tools)
    return engine.grammars.tool_calls(
        tools, template.call_format, in_reasoning=template.in_reasoning
    )


class _PlainText:
    """The parser of an answer that is text, whatever it looks like."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def feed(self, text: str) -> Iterable[Delta]:
        self._parts.append(text)
        return (TextDelta(text=text),)

    def flush(self, *, truncated: bool = False) -> Iterable[Delta]:
        return ()

    def finish(self, *, truncated: bool = False) -> tuple[Block, ...]:
        return (TextBlock(text="".join(self._parts)),)


class _Answer:
    """One answer on its way from tokens to blocks."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        parser: ToolCallParser,
        stop: Sequence[str],
        prefix_ids: Sequence[int],
    ) -> None:
        from qcode.engine.sampling.stop_strings import StoppableText

        self._tokenizer = tokenizer
        self._parser = parser
        self._settled = StoppableText(tokenizer, stop)
        self._prefix_ids = prefix_ids
        self._raw: list[str] = []
        self._trace: list[TokenChoice] = []
        self._num_tokens = 0
        self._num_cached_tokens = 0
        self._finish_reason: FinishReason | None = None

    @property
    def is_finished(self) -> bool:
        return self._finish_reason is not None

    def begin(self) -> Iterator[Delta]:
        """The deltas of the prefix that the answer continues."""
        yield from self._parse(self._settled.feed(self._prefix_ids))

    def feed(self, output: TokenOutput) -> Iterator[Delta]:
        if output.prefill is not None:
            self._num_cached_tokens = output.prefill.cached_tokens
        self._num_tokens += len(output.token_ids)
        self._trace.extend(self._choices(output))
        yield from self._parse(self._settled.feed(output.token_ids))
        if output.finish_reason is not None:
            self._finish_reason = output.finish_reason
            yield from self._parse(self._settled.flush())
            yield from self._parser.flush(truncated=self._is_truncated)

    def completed(self, model: str, num_prompt_tokens: int) -> Completed:
        blocks = self._parser.finish(truncated=self._is_truncated)
        message = AssistantMessage(
            blocks=blocks,
            stop_reason=stop_reason(blocks, truncated=self._is_truncated),
            model=model,
            usage=Usage(
                input_tokens=num_prompt_tokens,
                output_tokens=self._num_tokens,
                cached_tokens=self._num_cached_tokens,
            ),
            raw="".join(self._raw),
        )
        return Completed(message=message, trace=tuple(self._trace))

    @property
    def _is_truncated(self) -> bool:
        return self._finish_reason == "length"

    def _parse(self, text: str) -> Iterable[Delta]:
        if not text:
            return ()
        self._raw.append(text)
        return self._parser.feed(text)

    def _choices(self, output: TokenOutput) -> Iterator[TokenChoice]:
        for item in output.logprobs:
            others = (pair for pair in item.top if pair[0] != item.token_id)
            runner_up_id, runner_up = next(others, (-1, -math.inf))
            yield TokenChoice(
                token_id=item.token_id,
                text=self._tokenizer.decode([item.token_id]),
                probability=math.exp(item.logprob),
                runner_up_id=runner_up_id,
                runner_up_text=self._tokenizer.decode([runner_up_id]),
                runner_up_probability=math.exp(runner_up),
            )
