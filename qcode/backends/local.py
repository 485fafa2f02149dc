"""The bundled engine as a backend: conversation -> prompt tokens -> engine -> deltas and blocks.

torch is imported on first use, on the engine's thread where that is possible.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qcode.engine.async_engine import AsyncEngine
from qcode.engine.chat.answer import stop_reason
from qcode.engine.chat.hermes import HermesTemplate
from qcode.engine.chat.template import ChatTemplate, ToolCallParser, choose_template
from qcode.engine.model_config import ModelConfig
from qcode.engine.options import EngineOptions
from qcode.protocol.backends import AnswerShape, ChatRequest, ModelInfo
from qcode.protocol.chunks import Chunk, Completed, Delta, PrefillProgress, TokenChoice
from qcode.protocol.messages import AssistantMessage, Usage

if TYPE_CHECKING:
    from qcode.engine.engine import Engine
    from qcode.engine.grammar import Constraint
    from qcode.engine.sequence import FinishReason, TokenOutput
    from qcode.engine.tokenizer import Tokenizer

LARGE_PARAMETERS = 7_000_000_000
"""Models with fewer active parameters fail as free tool-calling agents."""


class LocalBackend:
    """One checkpoint, loaded when it is first needed or when `start` is called."""

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        options: EngineOptions | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        """`progress` is called on the engine's thread with the share of the model that is
        loaded."""
        self._path = path
        self._name = name
        self._options = options or EngineOptions()
        self._progress = progress
        self._engine: AsyncEngine | None = None
        self._template: ChatTemplate | None = None
        self._model: ModelInfo | None = None

    @property
    def model(self) -> ModelInfo:
        """Read from the file's header; the weights are not touched. The context window may turn
        out smaller once the model is loaded, where memory is short. Raises `CheckpointError`,
        `UnsupportedModel`."""
        if self._model is None:
            from qcode.engine.checkpoint.open import open_checkpoint

            config = open_checkpoint(self._path).config
            wanted = self._options.context_window or config.context_window
            self._model = self._info(config, min(wanted, config.context_window))
        return self._model

    def _info(self, config: ModelConfig, context_window: int) -> ModelInfo:
        return ModelInfo(
            name=self._name,
            context_window=context_window,
            strength="small" if config.num_active_parameters < LARGE_PARAMETERS else "large",
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
        prompt = await asyncio.to_thread(lambda: tokenizer.encode_prompt(template.render(request)))
        shape = request.answer or AnswerShape()
        constraint = await asyncio.to_thread(_constraint, engine, template, request)
        answer = _Answer(
            tokenizer, template.parser(request.tools), request.sampling.stop, shape.prefix_ids
        )
        outputs = engines.generate(
            prompt,
            request.sampling,
            constraint=constraint,
            prefix_ids=shape.prefix_ids,
            trace=shape.trace,
        )
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
        yield answer.completed(self._name, len(prompt) + len(shape.prefix_ids))

    def _chat_template(self, engine: Engine) -> ChatTemplate:
        if self._template is None:
            loaded = engine.loaded
            self._template = choose_template(
                architecture=loaded.config.architecture, jinja_source=loaded.chat_template
            )
        return self._template


def _constraint(engine: Engine, template: ChatTemplate, request: ChatRequest) -> Constraint | None:
    """The asked-for grammar; else, where calls are written as JSON, the offered tools."""
    if request.answer is not None and request.answer.grammar is not None:
        return engine.grammars.compile(request.answer.grammar)
    if request.tools and isinstance(template, HermesTemplate):
        return engine.grammars.tool_calls((tool.name, tool.schema) for tool in request.tools)
    return None


class _Answer:
    """One answer on its way from tokens to blocks."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        parser: ToolCallParser,
        stop: Sequence[str],
        prefix_ids: Sequence[int],
    ) -> None:
        from qcode.engine.tokenizer import IncrementalDecoder

        self._tokenizer = tokenizer
        self._parser = parser
        self._decoder = IncrementalDecoder(tokenizer)
        self._stop = StopStrings(stop)
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
        yield from self._text(self._decoder.feed(self._prefix_ids))

    def feed(self, output: TokenOutput) -> Iterator[Delta]:
        if output.prefill is not None:
            self._num_cached_tokens = output.prefill.cached_tokens
        self._num_tokens += len(output.token_ids)
        self._trace.extend(self._choices(output))
        yield from self._text(self._decoder.feed(output.token_ids))
        if output.finish_reason is not None and not self.is_finished:
            self._finish_reason = output.finish_reason
            yield from self._parse(self._stop.feed(self._decoder.flush()) + self._stop.flush())
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

    def _text(self, text: str) -> Iterator[Delta]:
        yield from self._parse(self._stop.feed(text))
        if self._stop.is_found:
            self._finish_reason = "stop"
            yield from self._parser.flush()

    def _parse(self, text: str) -> Iterable[Delta]:
        if not text:
            return ()
        self._raw.append(text)
        return self._parser.feed(text)

    def _choices(self, output: TokenOutput) -> Iterator[TokenChoice]:
        for item in output.probabilities:
            yield TokenChoice(
                token_id=item.token_id,
                text=self._tokenizer.decode([item.token_id]),
                probability=item.probability,
                runner_up_id=item.runner_up_id,
                runner_up_text=self._tokenizer.decode([item.runner_up_id]),
                runner_up_probability=item.runner_up_probability,
            )


class StopStrings:
    """Cuts a text at the first of several strings, the same however the text is split."""

    def __init__(self, strings: Sequence[str]) -> None:
        self._strings = [string for string in strings if string]
        self._held = ""
        self.is_found = False

    def feed(self, text: str) -> str:
        """The text that is settled: what may be the beginning of a stop string is held back, and
        nothing follows one that was found."""
        if self.is_found:
            return ""
        text = self._held + text
        starts = {string: text.find(string) for string in self._strings}
        found = [(start + len(string), start) for string, start in starts.items() if start >= 0]
        if found:
            self.is_found = True
            self._held = ""
            # The one that is complete first, whatever else had begun before it.
            return text[: min(found)[1]]
        held = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back, once nothing follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """How many characters at the end of `text` begin `string`."""
    longest = min(len(text), len(string) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0)
