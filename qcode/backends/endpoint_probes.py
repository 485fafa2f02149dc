"""What one model at one endpoint can do, found out by asking it.

Each probe sends the smallest request that shows one thing and reads its raw events: the backend
would mend what a probe has to see. Probes run one after the other, since a small server answers
one request at a time. A model answers as it likes, so where an answer shows nothing, the verdict
says that and claims no fault.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Literal

from qcode.backends.endpoint_profile import EndpointProfile
from qcode.backends.http import ChatEndpoint, RequestFailed
from qcode.backends.probe_requests import Observed, ProbeRequests
from qcode.backends.server_facts import ServerFacts, ask_server
from qcode.protocol.backends import ChatRequest
from qcode.protocol.errors import AuthenticationFailed, ContextOverflow
from qcode.protocol.messages import (
    AssistantMessage,
    ReasoningBlock,
    TextBlock,
    ToolCall,
    UserMessage,
)
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.tools import ToolSpec
from qcode.protocol.values import dataclass
from qcode.wire.openai_errors import stated_window

Verdict = Literal["ok", "note", "missing", "skipped"]

PROBES = (
    "reachable",
    "models",
    "stream",
    "reasoning",
    "usage",
    "stop reason",
    "tool call",
    "call as text",
    "parallel calls",
    "window",
    "prefix cache",
    "images",
)
_WEATHER = ToolSpec(
    name="get_weather",
    description="Get the weather of one city.",
    schema={
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The city's name."}},
        "required": ["city"],
    },
)
_FILLER = "Line {number}: the harbour was quiet, and the boats lay still in the evening light.\n"
_LONG_PROMPT_TOKENS = 5_000  # past the 4,096 that servers give where nobody asked for more
_CALIBRATION_LINES = 30
_FILLER_TOKENS = 20  # of one line, until the server has counted some
_USABLE_WINDOW = 16_384
_PIXEL = (  # one red pixel
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGA"
    "hKmMIQAAAABJRU5ErkJggg=="
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """`fix` says what to do about a verdict that is not "ok", where something can be done."""

    probe: str
    verdict: Verdict
    text: str
    fix: str = ""


class EndpointProbes:
    """`profile` and `model` are complete when `run` has ended. `code_word` is what the model is
    asked to recall; new each time, so that no cache knows the prompt."""

    def __init__(
        self,
        endpoint: ChatEndpoint,
        model: str | None,
        *,
        code_word: str = "",
    ) -> None:
        self._endpoint = endpoint
        self.model = model or ""
        self.profile = EndpointProfile()
        self._facts = ServerFacts(model=self.model)
        self._code_word = code_word or secrets.token_hex(4).upper()
        self._line_tokens = float(_FILLER_TOKENS)
        self._long: tuple[ChatRequest, Observed] | None = None
        self._requests = ProbeRequests(endpoint, self.model, self.profile.dialect)

    @property
    def shown_url(self) -> str:
        return self._endpoint.shown_url

    async def run(self) -> AsyncGenerator[ProbeResult, None]:
        """One result for each of `PROBES`, in that order; where nothing answers, or not as a chat
        model does, the rest is skipped."""
        groups: tuple[Callable[[], Awaitable[list[ProbeResult]]], ...] = (
            self._reach,
            self._stream,
            self._lengths,
            self._tools,
            self._parallel,
            self._window,
            self._cache,
            self._images,
        )
        done = 0
        for probe in groups:
            results = await probe()
            done += len(results)
            for result in results:
                yield result
            if results[0].verdict == "missing" and results[0].probe in ("reachable", "stream"):
                break
        for name in PROBES[done:]:
            yield ProbeResult(probe=name, verdict="skipped", text="not asked")
        self.profile = replace(
            self.profile, dialect=self._requests.dialect, server=self._facts.server
        )

    # What is there

    async def _reach(self) -> list[ProbeResult]:
        try:
            self._facts = await ask_server(self._endpoint, self.model or None)
        except RequestFailed as failed:
            return self._not_listed(failed)
        self.model = self._facts.model
        self._requests = ProbeRequests(self._endpoint, self.model, self.profile.dialect)
        server = self._facts.server or "an OpenAI-compatible server"
        reached = _ok("reachable", f"{server} at {self._endpoint.shown_url}")
        names = self._facts.models
        if self.model in names:
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return [reached, _ok("models", f"{self.model}{others}")]
        near = ", ".join(names[:5]) or "none"
        fix = f"Name one of them with --model: {near}" if names else ""
        return [reached, _note("models", f"{self.model} is not among those listed: {near}", fix)]

    def _not_listed(self, failed: RequestFailed) -> list[ProbeResult]:
        error = failed.error
        if isinstance(error, AuthenticationFailed):
            fix = "Set OPENAI_API_KEY, or give --key env:NAME."
            return [_missing("reachable", error.message, fix)]
        if failed.failure.kind == "connect" or not self.model:
            fix = error.hint or "Start the server, or correct the URL."
            return [_missing("reachable", error.message, fix)]
        text = "the server does not list its models"
        return [_ok("reachable", self._endpoint.shown_url), _note("models", text, "")]

    # One plain answer

    async def _stream(self) -> list[ProbeResult]:
        seen = await self._requests.ask(_prompt("Write two short sentences about the sea.", 400))
        if seen.error is not None:
            return [_missing("stream", seen.error.message, seen.error.hint)]
        first = f"first output after {seen.first_output_s:.1f} s"
        if seen.num_outputs > 2:
            streamed = _ok("stream", f"{seen.num_outputs} events, {first}")
        else:
            text = f"the answer comes in one piece, {first}"
            streamed = _note("stream", text, "Look for a setting of the server that streams.")
        return [streamed, await self._reasoning(seen), _usage_result(seen)]

    async def _reasoning(self, seen: Observed) -> ProbeResult:
        field = seen.decoder.reasoning_field
        if not field:
            inline = "<think>" in seen.text
            text = "in the text, as <think>; it is told apart" if inline else "none shown"
            return _ok("reasoning", text)
        thought = AssistantMessage(
            blocks=(ReasoningBlock(text="The sea is wide."), TextBlock(text="It is wide.")),
            stop_reason="end",
            model=self.model,
        )
        again = ChatRequest(
            system="",
            messages=(UserMessage(content="The sea?"), thought, UserMessage(content="Thanks.")),
            sampling=SamplingParams(max_tokens=16, temperature=0),
        )
        returned = await self._requests.ask(again)
        if returned.error is not None or self._requests.dialect.reasoning == "drop":
            self._requests.dialect = replace(self._requests.dialect, reasoning="drop")
            return _ok("reasoning", f"in {field}; not wanted back, so it is left out")
        return _ok("reasoning", f"in {field}; sent back with later requests")

    # Counting

    async def _lengths(self) -> list[ProbeResult]:
        """A known number of lines teaches how the server counts; the cut answer how it stops."""
        lines = _filler(_CALIBRATION_LINES)
        seen = await self._requests.ask(_prompt(f"{lines}\nCount from 1 to 100 in words.", 8))
        if seen.error is not None:
            return [_missing("stop reason", seen.error.message, seen.error.hint)]
        if seen.decoder.usage.input_tokens:
            self._line_tokens = max(5.0, seen.decoder.usage.input_tokens / _CALIBRATION_LINES)
        reason = seen.decoder.finish_reason
        if seen.decoder.truncated:
            return [_ok("stop reason", f"{reason!r} when the answer is cut short")]
        text = f"{reason!r} though the answer was cut short after 8 tokens"
        return [_note("stop reason", text, "Answers that were cut short look whole: see the log.")]

    # Tools

    async def _tools(self) -> list[ProbeResult]:
        request = _prompt(
            "What is the weather in Paris? Call the tool get_weather to find out.", 400, _WEATHER
        )
        seen = await self._requests.ask(request)
        if seen.error is not None:
            fix = "Choose a model, or a setting of the server, with tool calls."
            return [_missing("tool call", seen.error.message, fix), _skipped("call as text")]
        calls = seen.reported_calls()
        if any(_is_sound(call) for call in calls):
            return [_ok("tool call", "reported by the server"), _ok("call as text", "no need")]
        if calls:
            text = f"the server reports a call it has damaged: {calls[0].arguments[:60]!r}"
            fix = "Update the server, or choose another tool parser there."
            return [_missing("tool call", text, fix), _skipped("call as text")]
        fix = "Set the server's tool parser: llama-server --jinja; vllm --enable-auto-tool-choice."
        if seen.written_calls(request, fenced_calls=False):
            return [
                _note("tool call", "not reported by the server", fix),
                _ok("call as text", "found in the text"),
            ]
        if seen.written_calls(request, fenced_calls=True):
            self.profile = replace(self.profile, fenced_calls=True)
            return [
                _note("tool call", "not reported by the server", fix),
                _note("call as text", "found in a code block; such calls count from now on", fix),
            ]
        said = " ".join(seen.text.split())[:80]
        return [
            _missing("tool call", "the model made no call when asked to", fix),
            _missing("call as text", f"none in {said!r}", "Choose a model trained for tools."),
        ]

    async def _parallel(self) -> list[ProbeResult]:
        request = _prompt(
            "Call get_weather for Paris and, in the same answer, get_weather for Tokyo.",
            400,
            _WEATHER,
        )
        seen = await self._requests.ask(request)
        if seen.error is not None:
            return [_note("parallel calls", seen.error.message, seen.error.hint)]
        calls = seen.reported_calls()
        if any(not _is_sound(call) for call in calls):
            self._requests.dialect = replace(self._requests.dialect, single_calls=True)
            text = "two calls at once come out damaged; one at a time is asked for from now on"
            return [_note("parallel calls", text, "Update the server, if it can be.")]
        calls = calls or seen.written_calls(request, fenced_calls=self.profile.fenced_calls)
        if len(calls) > 1:
            return [_ok("parallel calls", f"{len(calls)} in one answer")]
        return [_ok("parallel calls", "the model makes one call at a time")]

    # Long prompts

    async def _window(self) -> list[ProbeResult]:
        """Sends a prompt that is too long for a window set by mistake, with a word at its very
        beginning: what the server drops in silence is dropped from there."""
        window = self._facts.context_window
        self.profile = replace(self.profile, context_window=window)
        num_tokens = _LONG_PROMPT_TOKENS
        if window is not None and window < _LONG_PROMPT_TOKENS * 1.2:
            num_tokens = round(window * 1.25)
        num_lines = max(1, round(num_tokens / self._line_tokens))
        question = "What is the code word? Answer with the word alone."
        text = f"The code word is {self._code_word}.\n{_filler(num_lines)}\n{question}"
        request = _prompt(text, 24)
        seen = await self._requests.ask(request)
        if isinstance(seen.error, ContextOverflow):
            return [self._refused_window(seen.error, window)]
        if seen.error is not None:
            return [_note("window", f"a long prompt failed: {seen.error.message}", "")]
        counted = seen.decoder.usage.input_tokens
        recalled = self._code_word in seen.text.upper()
        if counted and counted < 0.85 * num_lines * self._line_tokens and not recalled:
            return [self._cut_window(counted, num_tokens)]
        if not counted and not recalled and window is not None and num_tokens > window:
            return [self._cut_window(window, num_tokens)]
        self._long = request, seen
        if window is None:
            text = f"not stated; {counted or num_tokens:,} tokens were taken"
            return [_note("window", text, "Set it: context_window, or --context.")]
        if window < _USABLE_WINDOW:
            text = f"{window:,} tokens, little for work on code"
            return [_note("window", text, self._facts.window_advice or "Serve it with more.")]
        return [_ok("window", f"{window:,} tokens, and nothing is cut off in silence")]

    def _refused_window(self, error: ContextOverflow, known: int | None) -> ProbeResult:
        window = stated_window(error.message) or known
        self.profile = replace(self.profile, context_window=window)
        size = "its size is not stated" if window is None else f"{window:,} tokens"
        fix = self._facts.window_advice or "Serve it with 32,768 tokens or more."
        return _note(
            "window", f"{size}, little for work on code; more is refused as it should", fix
        )

    def _cut_window(self, kept: int, sent: int) -> ProbeResult:
        self.profile = replace(self.profile, context_window=kept)
        text = f"of {sent:,} tokens about {kept:,} were read: the rest is dropped in silence"
        return _missing("window", text, self._facts.window_advice or "Serve it with more.")

    async def _cache(self) -> list[ProbeResult]:
        if self._long is None:
            return [_skipped("prefix cache")]
        request, first = self._long
        seen = await self._requests.ask(request)
        if seen.error is not None:
            return [_note("prefix cache", seen.error.message, seen.error.hint)]
        times = f"{first.first_output_s:.1f} s, then {seen.first_output_s:.1f} s"
        cached = seen.decoder.usage.cached_tokens
        if cached:
            return [_ok("prefix cache", f"{cached:,} tokens reused; {times}")]
        if seen.first_output_s < 0.5 * first.first_output_s:
            return [_ok("prefix cache", f"the same prompt again is quick: {times}")]
        text = f"the same prompt again is no quicker: {times}"
        return [_note("prefix cache", text, "Switch prefix caching on at the server, if it can.")]

    async def _images(self) -> list[ProbeResult]:
        content = [
            {"type": "text", "text": "Which colour is this?"},
            {"type": "image_url", "image_url": {"url": _PIXEL}},
        ]
        body = {"messages": [{"role": "user", "content": content}]}
        seen = await self._requests.ask(_prompt("", 16), extra_body=body)
        if seen.error is None:
            return [_ok("images", "accepted")]
        return [_ok("images", "refused: text only")]


def _prompt(text: str, max_tokens: int, *tools: ToolSpec) -> ChatRequest:
    return ChatRequest(
        system="",
        messages=(UserMessage(content=text),),
        tools=tools,
        sampling=SamplingParams(temperature=0, max_tokens=max_tokens),
    )


def _filler(num_lines: int) -> str:
    return "".join(_FILLER.format(number=number) for number in range(num_lines))


def _is_sound(call: ToolCall) -> bool:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:
        return False
    return call.name == _WEATHER.name and isinstance(arguments, dict) and "city" in arguments


def _usage_result(seen: Observed) -> ProbeResult:
    usage = seen.decoder.usage
    if usage.input_tokens:
        return _ok("usage", f"{usage.input_tokens} tokens read, {usage.output_tokens} written")
    return _note("usage", "not reported: tokens are estimated from the text", "")


def _ok(probe: str, text: str) -> ProbeResult:
    return ProbeResult(probe=probe, verdict="ok", text=text)


def _note(probe: str, text: str, fix: str) -> ProbeResult:
    return ProbeResult(probe=probe, verdict="note", text=text, fix=fix)


def _missing(probe: str, text: str, fix: str) -> ProbeResult:
    return ProbeResult(probe=probe, verdict="missing", text=text, fix=fix)


def _skipped(probe: str) -> ProbeResult:
    return ProbeResult(probe=probe, verdict="skipped", text="not asked")
