"""Qwen2.5 and Qwen3 prompts: ChatML turns, calls as JSON inside `<tool_call>`.

The text is what the checkpoints' own templates produce; tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcode.engine.chat.answer import AnswerParser
from qcode.engine.chat.arguments import dump, read_arguments
from qcode.engine.chat.prompt import PromptBuilder, PromptPiece
from qcode.engine.tool_grammar import CallFormat
from qcode.protocol.backends import ChatRequest
from qcode.protocol.messages import (
    AssistantMessage,
    Message,
    ReasoningBlock,
    ToolMessage,
    UserMessage,
)
from qcode.protocol.tools import ToolSpec

QWEN_IDENTITY = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
NO_THINKING = "<think>\n\n</think>\n\n"
OPEN_THINKING = "<think>\n"

_TOOLS_INTRO = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
_TOOLS_OUTRO = """
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
"""
_CALL_EXAMPLE = '{"name": <function-name>, "arguments": <args-json-object>}'


@dataclass(frozen=True, slots=True, kw_only=True)
class HermesTemplate:
    """`default_system` stands where a request has no system text. Some published templates print
    the example call in doubled braces, a slip of their quoting that their models were shown.
    `keeps_reasoning` renders the thinking of the turn under way, as Qwen3 does. `prefill` is
    written for the model at the start of each answer and is no part of it.
    """

    default_system: str | None = QWEN_IDENTITY
    doubled_braces: bool = False
    keeps_reasoning: bool = False
    prefill: str = ""

    @property
    def call_format(self) -> CallFormat:
        return "json"

    @property
    def in_reasoning(self) -> bool:
        return self.prefill == OPEN_THINKING

    def render(self, request: ChatRequest) -> tuple[PromptPiece, ...]:
        prompt = PromptBuilder()
        self._system(prompt, request)
        last_query = _last_query(request.messages)
        for number, message in enumerate(request.messages):
            match message:
                case UserMessage():
                    prompt.markup("<|im_start|>user\n")
                    prompt.content(message.content)
                    prompt.markup("<|im_end|>\n")
                case AssistantMessage():
                    last = number == len(request.messages) - 1
                    self._assistant(prompt, message, open_turn=number > last_query, last=last)
                case ToolMessage():
                    _tool_result(prompt, request.messages, number)
        prompt.markup("<|im_start|>assistant\n" + self.prefill)
        return prompt.pieces()

    def parser(self, tools: Sequence[ToolSpec], *, constrained: bool = False) -> AnswerParser:
        return AnswerParser(tools, in_reasoning=self.in_reasoning, constrained=constrained)

    def _system(self, prompt: PromptBuilder, request: ChatRequest) -> None:
        system = request.system or self.default_system
        if system is None and not request.tools:
            return
        prompt.markup("<|im_start|>system\n")
        prompt.content(system or "")
        if request.tools:
            prompt.markup(("\n\n" if system else "") + _TOOLS_INTRO)
            for tool in request.tools:
                prompt.markup("\n")
                prompt.content(dump(tool_object(tool)))
            example = f"{{{_CALL_EXAMPLE}}}" if self.doubled_braces else _CALL_EXAMPLE
            prompt.markup(f"{_TOOLS_OUTRO}{example}\n</tool_call>")
        prompt.markup("<|im_end|>\n")

    def _assistant(
        self, prompt: PromptBuilder, message: AssistantMessage, *, open_turn: bool, last: bool
    ) -> None:
        prompt.markup("<|im_start|>assistant\n")
        if message.raw is not None:
            prompt.markup(continue_prefill(self.prefill, message.raw))
        else:
            text = message.text
            if self.keeps_reasoning and open_turn:
                text = _reasoning(prompt, message, text, last=last)
            prompt.content(text)
            _calls(prompt, message)
        prompt.markup("<|im_end|>\n")


def _reasoning(prompt: PromptBuilder, message: AssistantMessage, text: str, *, last: bool) -> str:
    """Writes the thinking; the text that is left to write."""
    blocks = [block.text for block in message.blocks if isinstance(block, ReasoningBlock)]
    reasoning = "".join(blocks)
    if not reasoning and not last:
        return text
    prompt.markup("<think>\n")
    prompt.content(reasoning.strip("\n"))
    prompt.markup("\n</think>\n\n")
    return text.lstrip("\n")


def _calls(prompt: PromptBuilder, message: AssistantMessage) -> None:
    for number, call in enumerate(message.tool_calls):
        # As the published templates have it: also after text whose newlines the thinking swallowed.
        prompt.markup("\n" if message.text or number else "")
        prompt.markup('<tool_call>\n{"name": "')
        prompt.content(call.name)
        prompt.markup('", "arguments": ')
        prompt.content(dump(read_arguments(call.arguments)))
        prompt.markup("}\n</tool_call>")


def _tool_result(prompt: PromptBuilder, messages: Sequence[Message], number: int) -> None:
    """Results in a row share one user turn."""
    message = messages[number]
    if number == 0 or not isinstance(messages[number - 1], ToolMessage):
        prompt.markup("<|im_start|>user")
    prompt.markup("\n<tool_response>\n")
    prompt.content(message.content if isinstance(message, ToolMessage) else "")
    prompt.markup("\n</tool_response>")
    if number + 1 == len(messages) or not isinstance(messages[number + 1], ToolMessage):
        prompt.markup("<|im_end|>\n")


def _last_query(messages: Sequence[Message]) -> int:
    """The last thing a person asked; thinking before it is forgotten."""
    for number in range(len(messages) - 1, -1, -1):
        message = messages[number]
        if isinstance(message, UserMessage) and not (
            message.content.startswith("<tool_response>")
            and message.content.endswith("</tool_response>")
        ):
            return number
    return len(messages)


def continue_prefill(prefill: str, raw: str) -> str:
    """What stood after the generation prompt: `raw` behind what was written for the model."""
    return raw if raw.startswith("<think>") else prefill + raw


def tool_object(tool: ToolSpec) -> dict[str, object]:
    """A tool as templates and the Chat Completions format name it."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.schema,
        },
    }
