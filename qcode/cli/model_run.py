"""`qcode model run`: one answer of a model, with no agent and no tools around it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qcode.cli.exit_codes import INTERRUPTED, SIGNAL
from qcode.cli.flags import ContextFlag
from qcode.cli.installed_models import installed_path
from qcode.cli.interruption import Interruption
from qcode.cli.logs import configure_logging
from qcode.cli.model_flags import (
    DtypeFlag,
    KVDtypeFlag,
    ModelArgument,
    ThreadsFlag,
    engine_options,
)
from qcode.cli.prompt_input import read_file_or_stdin, read_prompt
from qcode.config.locations import Locations
from qcode.engine.options import EngineOptions
from qcode.frontends.progress import Progress
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Chunk, Completed, PrefillProgress, ReasoningDelta, TextDelta
from qcode.protocol.errors import BadInput
from qcode.protocol.messages import UserMessage
from qcode.protocol.sampling import SamplingParams
from qcode.sandbox.terminal_text import printable

if TYPE_CHECKING:
    from qcode.backends.local import LocalBackend

_BROKEN_PIPE = SIGNAL + 13
_EXAMPLE = 'qcode model run MODEL "What is a mutex?"'

Ask = Callable[["LocalBackend"], AsyncGenerator[Chunk, None]]


def run(
    model: ModelArgument,
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to say to it. `-`, or nothing: read it from standard input."),
    ] = None,
    system: Annotated[str, typer.Option(metavar="TEXT", help="The system prompt.")] = "",
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it stands: no chat around it.")
    ] = False,
    prefix: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Fill in the middle: what stands before it. `-`: stdin."),
    ] = None,
    suffix: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Fill in the middle: what stands after it. `-`: stdin."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 1024,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="0 is greedy. The model's own if not given, as with the next."),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Leave out tokens beyond this share.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=0, help="Leave out all but that many tokens; 0: none.")
    ] = None,
    min_p: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out tokens this much less likely than the best."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text. Repeatable.")
    ] = None,
    context: ContextFlag = None,
    kv_dtype: KVDtypeFlag = "auto",
    dtype: DtypeFlag = "auto",
    threads: ThreadsFlag = None,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", help="Log to stderr, and always tell tokens and speed."),
    ] = False,
) -> None:
    """Ask a model one thing, with no agent and no tools around it.

    The answer goes to stdout as it is written, everything else to stderr.
    """
    sampling = SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        seed=seed,
        stop=tuple(stop or ()),
    )
    configure_logging(Locations.from_environment(os.environ).log, verbose=verbose)
    path = installed_path(model)
    progress = Progress(sys.stderr, live=sys.stderr.isatty())
    fills_in = prefix is not None or suffix is not None
    if fills_in:
        if prompt is not None or system or raw:
            raise typer.BadParameter(
                "--prefix and --suffix are the whole prompt: no PROMPT, --system or --raw."
            )
        ask = _fill_in(prefix, suffix, sampling)
    else:
        ask = _prompt(prompt, system, raw, sampling, progress)
    options = engine_options(context=context, kv_dtype=kv_dtype, dtype=dtype, threads=threads)
    answering = _Answering(
        path=path,
        name=model,
        options=options,
        progress=progress,
        verbatim=fills_in or raw,
        tells_speed=verbose or sys.stderr.isatty(),
    )
    raise typer.Exit(answering.to_end(ask))


def _prompt(
    prompt: str | None, system: str, raw: bool, sampling: SamplingParams, progress: Progress
) -> Ask:
    if raw:
        if system:
            raise typer.BadParameter("--raw leaves no place for --system.")
        text = read_prompt(prompt, None if prompt else sys.stdin, progress.line, example=_EXAMPLE)
        return lambda backend: backend.complete(text, None, sampling)
    text = read_prompt(prompt, sys.stdin, progress.line, example=_EXAMPLE)
    messages = (UserMessage(content=text),)
    request = ChatRequest(system=system, messages=messages, sampling=sampling)
    return lambda backend: backend.stream(request)


def _fill_in(prefix: str | None, suffix: str | None, sampling: SamplingParams) -> Ask:
    if prefix == suffix == "-":
        raise BadInput("Standard input cannot be both --prefix and --suffix.")
    before = "" if prefix is None else read_file_or_stdin(prefix, sys.stdin)
    after = "" if suffix is None else read_file_or_stdin(suffix, sys.stdin)
    return lambda backend: backend.complete(before, after, sampling)


@dataclass(slots=True)
class _Timing:
    """When things happened, in seconds of the monotonic clock."""

    asked_s: float = 0.0
    first_token_s: float = 0.0


class _Answering:
    """One answer, from the loading of the model to the exit code."""

    def __init__(
        self,
        *,
        path: Path,
        name: str,
        options: EngineOptions,
        progress: Progress,
        verbatim: bool,
        tells_speed: bool,
    ) -> None:
        """`verbatim`: nothing is added to what the model writes, unless a person reads it."""
        self._path = path
        self._name = name
        self._options = options
        self._progress = progress
        self._verbatim = verbatim
        self._tells_speed = tells_speed
        self._interruption: Interruption | None = None
        self._timing = _Timing()
        self._thinking = False

    def to_end(self, ask: Ask) -> int:
        try:
            asyncio.run(self._main(ask))
        except asyncio.CancelledError:
            number = self._interruption.number if self._interruption else None
            return INTERRUPTED if number is None else SIGNAL + number
        except BrokenPipeError:
            # What is still buffered would be flushed once more, and complain, at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _BROKEN_PIPE
        return 0

    async def _main(self, ask: Ask) -> None:
        self._interruption = Interruption()
        from qcode.backends.local import LocalBackend

        self._progress.live_line("loading the model")
        backend = LocalBackend(
            self._path, name=self._name, options=self._options, progress=self._show_loading
        )
        try:
            for notice in await asyncio.to_thread(lambda: backend.notices):
                self._progress.line(notice)
            await backend.start().engine()
            self._timing.asked_s = time.monotonic()
            async with aclosing(ask(backend)) as chunks:
                async for chunk in chunks:
                    self._show(chunk)
        except asyncio.CancelledError:
            # Before the engine is waited for: the process may end first.
            self._progress.line("interrupted")
            raise
        finally:
            self._progress.clear_live()
            await backend.aclose()

    def _show_loading(self, share: float) -> None:
        self._progress.live_line(f"loading the model: {share:.0%}")

    def _show(self, chunk: Chunk) -> None:
        match chunk:
            case PrefillProgress():
                self._timing.first_token_s = time.monotonic()
                if chunk.done_tokens < chunk.total_tokens:
                    self._progress.show(chunk)
            case ReasoningDelta():
                self._progress.clear_live()
                self._thinking = True
                print(printable(chunk.text), end="", flush=True, file=sys.stderr)
            case TextDelta():
                if self._thinking:
                    print(file=sys.stderr)
                    self._thinking = False
                self._write(chunk.text)
            case Completed():
                self._finish(chunk)
            case _:
                pass

    def _finish(self, chunk: Completed) -> None:
        message = chunk.message
        for call in message.tool_calls:
            self._write(json.dumps({"name": call.name, "arguments": call.arguments}))
        if not self._verbatim or sys.stdout.isatty():
            self._write("\n")
        if not self._tells_speed:
            return
        usage, timing, now = message.usage, self._timing, time.monotonic()
        reading_s, writing_s = timing.first_token_s - timing.asked_s, now - timing.first_token_s
        # The first token comes with the last of the prompt.
        speed = (usage.output_tokens - 1) / writing_s if usage.output_tokens > 1 else 0.0
        self._progress.line(
            f"{usage.input_tokens:,} tokens read in {reading_s:.1f} s, {usage.output_tokens:,} "
            f"written in {writing_s:.1f} s ({speed:.1f} tokens/s)"
        )

    def _write(self, text: str) -> None:
        self._progress.clear_live()
        sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()
