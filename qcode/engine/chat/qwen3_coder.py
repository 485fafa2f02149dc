"""Qwen3-Coder prompts: ChatML turns, tools and calls in XML-like tags without escaping.

The text is that of the later published template (the one that says "tools"). Checkpoints with
another wording are rendered by their own template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qcode.engine.chat.answer import AnswerParser
from qcode.engine.chat.arguments import dump, read_arguments
from qcode.engine.chat.prompt import PromptBuilder, PromptPiece
from qcode.engine.tool_grammar import CallFormat
from qcode.protocol.backends import ChatRequest
from qcode.protocol.messages import AssistantMessage, Message, ToolMessage, UserMessage
from qcode.protocol.tools import ToolSpec

TOOLS_SENTENCE = "You have access to the following tools:"
_IDENTITY = "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks."
_TOOLS_INTRO = f"\n\n# Tools\n\n{TOOLS_SENTENCE}\n\n<tools>"
_TOOLS_OUTRO = """
</tools>

If you choose to call a tool ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
value_2
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: the tool calling block MUST begin with an \
opening <tool_call> tag and end with a closing </tool_call> tag.
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the \
function call, but NOT after
- If there is no function call available, answer the question like normal with your current \
knowledge and do not tell the user about function calls
</IMPORTANT>"""


class Qwen3CoderTemplate:
    @property
    def call_format(self) -> CallFormat:
        return "tags"

    @property
    def in_reasoning(self) -> bool:
        return False

    def render(self, request: ChatRequest) -> tuple[PromptPiece, ...]:
        prompt = PromptBuilder()
        _system(prompt, request)
        for number, message in enumerate(request.messages):
            match message:
                case UserMessage():
                    prompt.markup("<|im_start|>user\n")
                    prompt.content(message.content)
                    prompt.markup("<|im_end|>\n")
                case AssistantMessage():
                    _assistant(prompt, message)
                case ToolMessage():
                    _tool_result(prompt, message, request.messages, number)
        prompt.markup("<|im_start|>assistant\n")
        return prompt.pieces()

    def parser(self, tools: Sequence[ToolSpec], *, constrained: bool = False) -> AnswerParser:
        return AnswerParser(tools, constrained=constrained)


def _system(prompt: PromptBuilder, request: ChatRequest) -> None:
    if not request.system and not request.tools:
        return
    prompt.markup("<|im_start|>system\n")
    prompt.content(request.system or _IDENTITY)
    if request.tools:
        prompt.markup(_TOOLS_INTRO)
        for tool in request.tools:
            _tool(prompt, tool)
        prompt.markup(_TOOLS_OUTRO)
    prompt.markup("<|im_end|>\n")


def _tool(prompt: PromptBuilder, tool: ToolSpec) -> None:
    prompt.markup("\n<function>")
    _element(prompt, "name", tool.name)
    _element(prompt, "description", tool.description.strip())
    prompt.markup("\n<parameters>")
    properties = tool.schema.get("properties")
    for name, fields in (properties if isinstance(properties, dict) else {}).items():
        prompt.markup("\n<parameter>")
        _element(prompt, "name", name)
        if isinstance(fields, dict):
            if "type" in fields:
                _element(prompt, "type", str(fields["type"]))
            if "description" in fields:
                _element(prompt, "description", str(fields["description"]).strip())
            _extra_keys(prompt, fields, known=("name", "type", "description"))
        prompt.markup("\n</parameter>")
    _extra_keys(prompt, tool.schema, known=("type", "properties"))
    prompt.markup("\n</parameters>\n</function>")


def _extra_keys(
    prompt: PromptBuilder, fields: Mapping[str, object], *, known: tuple[str, ...]
) -> None:
    for key, value in fields.items():
        if key not in known:
            _element(prompt, key, _value_text(value))


def _element(prompt: PromptBuilder, tag: str, text: str) -> None:
    prompt.markup("\n<")
    prompt.content(tag)
    prompt.markup(">")
    prompt.content(text)
    prompt.markup("</")
    prompt.content(tag)
    prompt.markup(">")


def _value_text(value: object) -> str:
    """Containers as JSON; everything else as Python prints it, which models have seen."""
    return dump(value) if isinstance(value, (dict, list)) else str(value)


def _assistant(prompt: PromptBuilder, message: AssistantMessage) -> None:
    if message.raw is not None:
        prompt.markup("<|im_start|>assistant\n" + message.raw)
    elif not message.tool_calls:
        prompt.markup("<|im_start|>assistant\n")
        prompt.content(message.text)
    else:
        prompt.markup("<|im_start|>assistant")
        if text := message.text.strip():
            prompt.markup("\n")
            prompt.content(text)
            prompt.markup("\n")
        for call in message.tool_calls:
            _call(prompt, call.name, read_arguments(call.arguments))
    prompt.markup("<|im_end|>\n")


def _call(prompt: PromptBuilder, name: str, arguments: Mapping[str, object]) -> None:
    prompt.markup("\n<tool_call>\n<function=")
    prompt.content(name)
    prompt.markup(">\n")
    for key, value in arguments.items():
        prompt.markup("<parameter=")
        prompt.content(key)
        prompt.markup(">\n")
        prompt.content(_value_text(value))
        prompt.markup("\n</parameter>\n")
    prompt.markup("</function>\n</tool_call>")


def _tool_result(
    prompt: PromptBuilder, message: ToolMessage, messages: Sequence[Message], number: int
) -> None:
    """Results in a row share one user turn. Neither name nor id is shown: order tells them."""
    if number == 0 or not isinstance(messages[number - 1], ToolMessage):
        prompt.markup("<|im_start|>user\n")
    prompt.markup("<tool_response>\n")
    prompt.content(message.content)
    prompt.markup("\n</tool_response>\n")
    if number + 1 == len(messages) or not isinstance(messages[number + 1], ToolMessage):
        prompt.markup("<|im_end|>\n")
