"""One answer, read as it is written: thinking, text and calls.

The same reader serves every family, because models mix the forms: Qwen3-Coder answers in JSON
now and then, and drops `<tool_call>` before `<function=`; Qwen2.5-Coder writes bare or fenced
JSON. Decisions depend on the text alone and never on how it was split: while they are open, the
text is held back.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from qcode.engine.chat.arguments import OfferedTools
from qcode.engine.chat.bare_calls import BareCalls
from qcode.engine.chat.json_call import JsonCall
from qcode.engine.chat.prose import Prose
from qcode.engine.chat.tags import (
    FUNCTION_OPEN,
    NO,
    PARTIAL,
    TOOL_CLOSE,
    TOOL_OPEN,
    match_tag,
    skip_space,
)
from qcode.engine.chat.xml_call import XmlCall
from qcode.protocol.chunks import Delta, ToolCallDelta
from qcode.protocol.messages import Block, StopReason, ToolCall
from qcode.protocol.tools import ToolSpec
from qcode.wire.tool_call_stream import new_call_id

_THINK = "<think>"
_THINK_END = "</think>"
_MAX_OPENING_GAP = 64  # white space between <tool_call> and the call
_FENCE = re.compile(r"```[ \t]*(?:json|xml|tool_call)?[ \t]*\r?\n\s*", re.IGNORECASE)
_FENCE_LIMIT = 64
_SLICE = 4096  # what is put back is copied, so the buffer stays small
_CANDIDATE = re.compile(r"[<{\[`]")

_Place = Literal["start", "reasoning", "text", "wrapper", "function", "call", "bare", "after"]


def stop_reason(blocks: Sequence[Block], *, truncated: bool) -> StopReason:
    """Whether calls were made is told by the calls: servers and models get their word for it
    wrong."""
    if truncated:
        return "max_tokens"
    return "tool_calls" if any(isinstance(block, ToolCall) for block in blocks) else "end"


class AnswerParser:
    """A `ToolCallParser`. Without tools no call is looked for: other programs have their own
    call formats in plain text, and those must reach them unchanged.

    `in_reasoning` says that the prompt has opened the thinking already; `constrained`, that calls
    were written under a grammar of the tools, and are read to the letter.
    """

    def __init__(
        self,
        tools: Sequence[ToolSpec],
        *,
        in_reasoning: bool = False,
        constrained: bool = False,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._tools = OfferedTools(tuple(tools))
        self._constrained = constrained
        self._new_id = new_id
        self._place: _Place = "reasoning" if in_reasoning else "start"
        self._buffer = ""
        self._blocks: list[Block] = []
        self._deltas: list[Delta] = []
        self._prose = Prose()
        self._raw: list[str] = []  # what the open call was read from
        self._call: XmlCall | JsonCall | None = None
        self._call_id = ""
        self._arguments: list[str] = []
        self._num_calls = 0
        self._bare = BareCalls(self._tools)
        self._in_wrapper = False
        self._in_fence = False
        self._leftover_brackets = ""
        self._finished: tuple[Block, ...] | None = None

    @property
    def in_prose(self) -> bool:
        """Whether what comes next is read as text, and not as thinking or as part of a call."""
        return self._place in ("start", "text", "after")

    def feed(self, text: str) -> list[Delta]:
        for start in range(0, len(text), _SLICE):
            self._buffer += text[start : start + _SLICE]
            self._run_steps(final=False)
        return self._take_deltas()

    def flush(self, *, truncated: bool = False) -> list[Delta]:
        if self._finished is None:
            self._run_steps(final=True)
            if self._place == "call":
                self._end_open_call(truncated)
            self._deltas += self._prose.held_space()
            self._blocks += self._prose.close()
            self._finished = tuple(self._blocks)
        return self._take_deltas()

    def finish(self, *, truncated: bool = False) -> tuple[Block, ...]:
        self.flush(truncated=truncated)
        assert self._finished is not None
        return self._finished

    def _take_deltas(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        return deltas

    def _run_steps(self, *, final: bool) -> None:
        steps: dict[_Place, Callable[[bool], bool]] = {
            "start": self._read_start,
            "reasoning": self._read_reasoning,
            "text": self._read_text,
            "wrapper": self._read_wrapper,
            "function": self._read_function,
            "call": self._read_call,
            "bare": self._read_bare,
            "after": self._read_after,
        }
        while steps[self._place](final):
            pass

    # Text and reasoning

    def _read_start(self, final: bool) -> bool:
        bare = self._buffer.lstrip()
        if bare.startswith(_THINK):
            self._buffer = bare[len(_THINK) :]
            self._place = "reasoning"
        elif final or not _THINK.startswith(bare):
            self._place = "text"
        return self._place != "start"

    def _read_reasoning(self, final: bool) -> bool:
        end = self._buffer.find(_THINK_END)
        if end < 0:
            keep = 0 if final else _held_prefix(self._buffer, _THINK_END)
            self._deltas += self._prose.reasoning(self._buffer[: len(self._buffer) - keep])
            self._buffer = self._buffer[len(self._buffer) - keep :]
            return False
        self._deltas += self._prose.reasoning(self._buffer[:end])
        self._buffer = self._buffer[end + len(_THINK_END) :]
        self._blocks += self._prose.close()
        self._place = "after"
        return True

    def _read_text(self, final: bool) -> bool:
        """Text up to something that may open a call."""
        at = 0
        while self._tools and (found := _CANDIDATE.search(self._buffer, at)):
            at = found.start()
            verdict, end = self._opens_call(at, final)
            if verdict == "no":
                at += 1
                continue
            self._deltas += self._prose.text(self._buffer[:at])
            if verdict == "undecided":
                self._buffer = self._buffer[at:]
                return False
            self._raw = [self._buffer[at:end]]
            self._buffer = self._buffer[end:]
            return True
        self._deltas += self._prose.text(self._buffer)
        self._buffer = ""
        return False

    def _opens_call(self, at: int, final: bool) -> tuple[Literal["no", "undecided", "yes"], int]:
        if self._buffer[at] == "<":
            end = match_tag(self._buffer, at, TOOL_OPEN)
            if end > 0:
                self._place, self._in_wrapper, self._in_fence = "wrapper", True, False
                return "yes", end
            function = match_tag(self._buffer, at, FUNCTION_OPEN)
            if function > 0 and self._prose.is_line_start(self._buffer, at):
                self._place = "function"
                return "yes", function
            undecided = PARTIAL in (end, function) and not final
            return ("undecided" if undecided else "no"), at
        if not self._prose.is_line_start(self._buffer, at):
            return "no", at
        return self._opens_bare_call(at, final)

    def _opens_bare_call(
        self, at: int, final: bool
    ) -> tuple[Literal["no", "undecided", "yes"], int]:
        """JSON at a line's start, also in a code fence, may be a call without its tags."""
        end = at
        if self._buffer[at] == "`":
            fence = _FENCE.match(self._buffer, at)
            end = fence.end() if fence else at
            open_ended = end == len(self._buffer) or (
                fence is None and _may_be_fence(self._buffer[at:])
            )
            within_limit = (end if fence else len(self._buffer)) - at < _FENCE_LIMIT
            if open_ended and within_limit and not final:
                return "undecided", at
            if fence is None or not within_limit or self._buffer[end : end + 1] not in ("{", "["):
                return "no", at
        self._place, self._in_wrapper, self._in_fence = "bare", False, end > at
        self._bare = BareCalls(self._tools)
        return "yes", end

    # Calls

    def _read_wrapper(self, final: bool) -> bool:
        """After `<tool_call>`: a call in tags, a call in JSON, or prose about tool calls."""
        at = skip_space(self._buffer, 0, _MAX_OPENING_GAP)
        if at == len(self._buffer) and not final:
            return False
        if at != NO and self._buffer[at : at + 1] == "`":
            fence = _FENCE.match(self._buffer, at)
            if fence is None and _may_be_fence(self._buffer[at:]) and not final:
                return False
            self._in_fence = fence is not None
            at = fence.end() if fence else at
            if at == len(self._buffer) and not final:
                return False
        if at == NO or at == len(self._buffer):
            return self._put_back()
        if self._buffer[at] == "{":
            self._consume(at)
            self._begin_call(JsonCall(self._tools), in_wrapper=True)
            return True
        if self._buffer[at] == "[":
            self._consume(at)
            self._bare = BareCalls(self._tools)
            self._place = "bare"
            return True
        function = match_tag(self._buffer, at, FUNCTION_OPEN)
        if function > 0:
            self._consume(function)
            self._begin_call(
                XmlCall(self._tools, wrapped=True, strict=self._constrained), in_wrapper=True
            )
            return True
        return False if function == PARTIAL and not final else self._put_back()

    def _read_function(self, final: bool) -> bool:
        """After a `<function=` that no `<tool_call>` stands before. In a code fence it is not
        written under a grammar, even where calls are."""
        strict = self._constrained and not self._prose.in_fence
        self._begin_call(XmlCall(self._tools, wrapped=False, strict=strict), in_wrapper=False)
        return True

    def _begin_call(self, call: XmlCall | JsonCall, *, in_wrapper: bool) -> None:
        self._call, self._in_wrapper = call, in_wrapper
        self._arguments = []
        self._call_id = ""
        self._place = "call"

    def _consume(self, end: int) -> None:
        self._raw.append(self._buffer[:end])
        self._buffer = self._buffer[end:]

    def _put_back(self) -> bool:
        """What looked like a call is text: its first character for certain, and the rest is read
        again, since a call may begin in it."""
        text = "".join(self._raw) + self._buffer
        self._raw = []
        self._call = None
        self._place = "text"
        self._deltas += self._prose.text(text[:1])
        self._buffer = text[1:]
        return True

    def _read_call(self, final: bool) -> bool:
        assert self._call is not None
        end, status = self._call.read(self._buffer, final=final)
        self._consume(end)
        if status == "rejected":
            return self._put_back()
        self._send_call(self._call)
        if status == "more":
            return False
        self._add_call(self._call.name)
        return True

    def _send_call(self, call: XmlCall | JsonCall) -> None:
        if call.name is None:
            return
        piece = call.take()
        begins = not self._call_id
        if begins:
            self._call_id = self._new_id()
        if begins or piece:
            self._arguments.append(piece)
            self._send(call.name if begins else "", piece)

    def _send(self, name: str, piece: str) -> None:
        self._deltas.append(
            ToolCallDelta(index=self._num_calls, call_id=self._call_id, name=name, arguments=piece)
        )

    def _add_call(self, name: str | None) -> None:
        assert name is not None
        self._blocks += self._prose.close()
        self._blocks.append(
            ToolCall(id=self._call_id, name=name, arguments="".join(self._arguments))
        )
        self._num_calls += 1
        self._leftover_brackets = "}],;" if isinstance(self._call, JsonCall) else ""
        self._call = None
        self._raw = []
        self._place = "after"

    def _end_open_call(self, truncated: bool) -> None:
        """The answer ended inside a call: one that lacks only closing tags counts."""
        assert self._call is not None
        if self._call.complete_at_end and not truncated:
            self._call.close()
            self._send_call(self._call)
            self._add_call(self._call.name)
            return
        sent = self._call_id
        text = "".join(self._raw) + self._buffer
        self._place = "text"
        if sent:  # people have seen the call being written; the block alone keeps its text
            self._prose.add_shown(text)
        else:
            self._deltas += self._prose.text(text)

    def _read_bare(self, final: bool) -> bool:
        end, status = self._bare.read(self._buffer, final=final)
        self._consume(end)
        if status == "rejected":
            return self._put_back()
        if status == "more":
            return False
        for name, arguments in self._bare.calls:
            self._call_id, self._arguments = self._new_id(), [arguments]
            self._send(name, arguments)
            self._add_call(name)
        self._leftover_brackets = "}],;"
        return True

    # Between calls

    def _read_after(self, final: bool) -> bool:
        """After a call or thinking: leftovers of its markup, the next call, or text."""
        while True:
            self._buffer = self._buffer.lstrip()
            if not self._buffer:
                return False
            end = self._leftover(final)
            if end == PARTIAL:
                return False
            if end == NO:
                break
            self._buffer = self._buffer[end:]
        self._prose.begin_line()
        if self._in_wrapper and self._buffer[0] == "{":
            self._begin_call(JsonCall(self._tools), in_wrapper=True)
            return True
        self._in_wrapper = self._in_fence = False
        self._leftover_brackets = ""
        self._place = "text"
        return True

    def _leftover(self, final: bool) -> int:
        closing = match_tag(self._buffer, 0, TOOL_CLOSE) if self._num_calls else NO
        if closing > 0:
            self._in_wrapper = False
            return closing
        if closing == PARTIAL:
            return len(self._buffer) if final else PARTIAL
        if self._in_fence and self._buffer[0] == "`":
            return self._closing_fence(final)
        return 1 if self._buffer[0] in self._leftover_brackets else NO

    def _closing_fence(self, final: bool) -> int:
        line, newline, _ = self._buffer.partition("\n")
        if not newline and not final and not line.rstrip(" \t\r").strip("`"):
            return PARTIAL
        if line.strip() != "```":
            return NO
        self._in_fence = False
        return len(line)


def _held_prefix(text: str, tag: str) -> int:
    """How many characters at the end of `text` may begin `tag`."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)


def _may_be_fence(text: str) -> bool:
    return re.fullmatch(r"`{1,3}[ \t]*\w*[ \t]*\r?", text) is not None
