"""Prompts of families we do not know, by the checkpoint's own Jinja template.

The template is rendered in a process of its own with little time and memory. What is content is
told from markup by rendering twice: as it is, and with every content marked at both ends.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from qcode.engine.chat.answer import AnswerParser
from qcode.engine.chat.arguments import read_arguments
from qcode.engine.chat.hermes import tool_object
from qcode.engine.chat.prompt import PromptBuilder, PromptPiece
from qcode.engine.tool_grammar import CallFormat
from qcode.protocol.backends import ChatRequest
from qcode.protocol.errors import UnsupportedModel
from qcode.protocol.messages import AssistantMessage, Message, ReasoningBlock, UserMessage
from qcode.protocol.tools import ToolSpec

_WALL_S = 20.0
# Noncharacters: no text in interchange may hold them.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"

Mark = Callable[[str], str]


class JinjaTemplate:
    """`thinking` is passed on as `enable_thinking`.

    `render` starts a process each time (about 0.2 s) and raises `UnsupportedModel` where the
    template fails, runs too long or is not a template.
    """

    def __init__(self, source: str, *, thinking: bool = True) -> None:
        self._source = source
        self._thinking = thinking

    def render(self, request: ChatRequest) -> tuple[PromptPiece, ...]:
        plain, marked = _render(
            self._source, [self._variables(request, _unmarked), self._variables(request, _mark)]
        )
        if marked.replace(_OPEN, "").replace(_CLOSE, "") == plain:
            return _split(marked)
        # The template looks inside contents. Without knowing what is content, special tokens
        # are broken up where they stand in it.
        (broken,) = _render(self._source, [self._variables(request, _break_tokens)])
        return (PromptPiece(broken, True),)

    @property
    def call_format(self) -> CallFormat | None:
        """Qwen3-Coder's templates of July 2025 have other words, and the same calls."""
        tags = ("<tool_call>", "<function=", "<parameter=")
        return "tags" if all(tag in self._source for tag in tags) else None

    @property
    def in_reasoning(self) -> bool:
        return opens_thinking(self._source)

    def parser(self, tools: Sequence[ToolSpec], *, constrained: bool = False) -> AnswerParser:
        return AnswerParser(tools, in_reasoning=self.in_reasoning, constrained=constrained)

    def _variables(self, request: ChatRequest, mark: Mark) -> dict[str, object]:
        messages: list[dict[str, object]] = []
        if request.system:
            messages.append({"role": "system", "content": mark(request.system)})
        messages.extend(_message(message, mark) for message in request.messages)
        variables: dict[str, object] = {
            "messages": messages,
            "add_generation_prompt": True,
            "enable_thinking": self._thinking,
            "bos_token": "",
            "eos_token": "",
        }
        if request.tools:
            variables["tools"] = [_tool(tool, mark) for tool in request.tools]
        return variables


def opens_thinking(source: str) -> bool:
    """Whether a template's generation prompt ends inside the thinking."""
    return _OPENS_THINKING.search(source) is not None


_OPENS_THINKING = re.compile(r"assistant(?:\\n|\n)<think>(?:\\n|\n)*(?:['\"{]|$)")


def _unmarked(text: str) -> str:
    return text


def _mark(text: str) -> str:
    """Marks stand inside the white space around a text, so that trimming goes unnoticed."""
    core = text.strip()
    if not core:
        return text
    start = text.index(core)
    return f"{text[:start]}{_OPEN}{core}{_CLOSE}{text[start + len(core) :]}"


def _break_tokens(text: str) -> str:
    return text.replace("<|", "<\u200b|").replace("|>", "|\u200b>")


def _message(message: Message, mark: Mark) -> dict[str, object]:
    if isinstance(message, UserMessage):
        return {"role": "user", "content": mark(message.content)}
    if not isinstance(message, AssistantMessage):
        return {
            "role": "tool",
            "content": mark(message.content),
            "name": message.name,
            "tool_call_id": message.call_id,
        }
    if message.raw is not None:
        return {"role": "assistant", "content": message.raw}
    written: dict[str, object] = {"role": "assistant", "content": mark(message.text)}
    reasoning = [block.text for block in message.blocks if isinstance(block, ReasoningBlock)]
    if reasoning:
        written["reasoning_content"] = mark("".join(reasoning))
    if message.tool_calls:
        written["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": _mark_strings(read_arguments(call.arguments), mark),
                },
            }
            for call in message.tool_calls
        ]
    return written


def _tool(tool: ToolSpec, mark: Mark) -> dict[str, object]:
    described = ToolSpec(name=tool.name, description=mark(tool.description), schema=tool.schema)
    return tool_object(described)


def _mark_strings(value: object, mark: Mark) -> object:
    if isinstance(value, str):
        return mark(value)
    if isinstance(value, dict):
        return {key: _mark_strings(item, mark) for key, item in value.items()}
    if isinstance(value, list):
        return [_mark_strings(item, mark) for item in value]
    return value


def _split(marked: str) -> tuple[PromptPiece, ...]:
    prompt = PromptBuilder()
    for number, part in enumerate(marked.split(_OPEN)):
        content, _, markup = part.partition(_CLOSE) if number else ("", "", part)
        prompt.content(content)
        prompt.markup(markup)
    return prompt.pieces()


def _render(source: str, variables: list[dict[str, object]]) -> list[str]:
    """One text for each set of variables. Raises UnsupportedModel."""
    child = Path(__file__).with_name("jinja_sandbox.py")
    hint = "the model's own chat template cannot be used; serve the model behind a URL instead"
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(child)],
            input=json.dumps({"source": source, "variables": variables}),
            capture_output=True,
            encoding="utf-8",
            env={"LC_ALL": "C.UTF-8"},
            timeout=_WALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnsupportedModel("the chat template ran too long", hint) from error
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise UnsupportedModel("the chat template ran out of time or memory", hint) from error
    if "error" in answer:
        raise UnsupportedModel(f"the chat template failed: {answer['error']}", hint)
    texts: list[str] = answer["texts"]
    return texts
