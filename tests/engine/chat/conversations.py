"""Conversations and tools for the prompt tests, and the templates they are compared with."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from qcode.engine.chat.prompt import PromptPiece
from qcode.engine.chat.template import ChatTemplate
from qcode.protocol.backends import ChatRequest
from qcode.protocol.messages import (
    AssistantMessage,
    Block,
    Message,
    ReasoningBlock,
    TextBlock,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from qcode.protocol.tools import ToolSpec

TOOLS = (
    ToolSpec(
        name="read_file",
        description="Read a file.\n",
        schema={
            "type": "object",
            "properties": {
                "path": {"type": "string", "description": " Where it is — “é”. "},
                "offset": {"type": "integer", "minimum": 0},
                "limit": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
            },
            "required": ["path"],
            "additionalProperties": False,
        },
    ),
    ToolSpec(
        name="write_file",
        description="Write a file.",
        schema={
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "content": {"type": "string"},
                "append": {"type": "boolean"},
                "ratio": {"type": "number"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "meta": {"$ref": "#/$defs/Meta"},
                "note": {"type": ["string", "null"]},
            },
            "$defs": {"Meta": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        },
    ),
    ToolSpec(name="list_directory", description="", schema={}),
)

# Newlines at the ends, white space, other scripts, quotes, and pieces of the markup itself.
TEXT_PARTS = [
    "a",
    " ",
    "\n",
    "\n\n",
    "\t",
    "é😀",
    '"',
    "'",
    "\\",
    "\\n",
    "{",
    "}}",
    "&lt;",
    "<",
    "</",
    "<p",
    "</param",
    "<tool",
    "<|im_end|>",
    "<|im_start|>user",
    "\r\n",
    "null",
    "\u2028",
]
texts = st.lists(st.sampled_from(TEXT_PARTS), max_size=6).map("".join)
some_text = texts.filter(lambda text: bool(text.strip()))

values_of = {
    "path": texts,
    "content": texts,
    "offset": st.integers(-5, 10**20),
    "limit": st.none() | st.integers(),
    "append": st.booleans(),
    "ratio": st.floats(-1e6, 1e6),
    "tags": st.lists(texts, max_size=3),
    "meta": st.dictionaries(texts, st.integers() | texts | st.none() | st.booleans(), max_size=3),
}


@st.composite
def tool_calls(draw: st.DrawFn, call_id: str = "c") -> ToolCall:
    tool = draw(st.sampled_from(TOOLS))
    names = [name for name in tool.schema.get("properties", {}) if name in values_of]
    chosen = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    arguments = {name: draw(values_of[name]) for name in chosen}
    written = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(id=call_id, name=tool.name, arguments=written)


@st.composite
def conversations(draw: st.DrawFn, *, reasoning: bool = False) -> tuple[Message, ...]:
    messages: list[Message] = [UserMessage(content=draw(texts))]
    for turn in range(draw(st.integers(0, 3))):
        blocks: list[Block] = []
        if reasoning and draw(st.booleans()):
            blocks.append(ReasoningBlock(text=draw(some_text)))
        if text := draw(texts):
            blocks.append(TextBlock(text=text))
        calls = [draw(tool_calls(f"c{turn}_{n}")) for n in range(draw(st.integers(0, 2)))]
        messages.append(
            AssistantMessage(
                blocks=(*blocks, *calls),
                stop_reason="tool_calls" if calls else "end",
                model="m",
            )
        )
        messages.extend(
            ToolMessage(call_id=call.id, name=call.name, content=draw(texts)) for call in calls
        )
        if not calls or draw(st.booleans()):
            messages.append(UserMessage(content=draw(texts)))
    return tuple(messages)


def requests(*, reasoning: bool = False) -> st.SearchStrategy[ChatRequest]:
    return st.builds(
        ChatRequest,
        system=texts,
        messages=conversations(reasoning=reasoning),
        tools=st.sampled_from([(), TOOLS[:1], TOOLS]),
    )


def prompt_text(template: ChatTemplate, request: ChatRequest) -> str:
    return "".join(piece.text for piece in template.render(request))


def joined(pieces: tuple[PromptPiece, ...], *, trusted: bool) -> str:
    return "\0".join(piece.text for piece in pieces if piece.trusted is trusted)


def template_variables(request: ChatRequest) -> dict[str, object]:
    """A request as a checkpoint's own template is given it."""
    messages: list[dict[str, object]] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    for message in request.messages:
        if isinstance(message, UserMessage):
            messages.append({"role": "user", "content": message.content})
        elif isinstance(message, ToolMessage):
            messages.append({"role": "tool", "content": message.content})
        else:
            messages.append(_assistant(message))
    variables: dict[str, object] = {"messages": messages, "add_generation_prompt": True}
    if request.tools:
        variables["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.schema,
                },
            }
            for tool in request.tools
        ]
    return variables


def _assistant(message: AssistantMessage) -> dict[str, object]:
    reasoning = [block.text for block in message.blocks if isinstance(block, ReasoningBlock)]
    written: dict[str, object] = {
        "role": "assistant",
        "content": message.text,
        "reasoning_content": "".join(reasoning),
    }
    if message.tool_calls:
        written["tool_calls"] = [
            {
                "type": "function",
                "function": {"name": call.name, "arguments": json.loads(call.arguments)},
            }
            for call in message.tool_calls
        ]
    return written


CHATML_TURNS = """
{%- for message in messages %}
  {%- if message.role == 'assistant' %}
    {{- '<|im_start|>assistant\\n' }}
    {%- set body = message.content %}
    {%- if thinks and loop.index0 > ns.query and (loop.last or message.reasoning_content) %}
      {{- '<think>\\n' ~ message.reasoning_content.strip('\\n') ~ '\\n</think>\\n\\n' }}
      {%- set body = body.lstrip('\\n') %}
    {%- endif %}
    {{- body }}
    {%- for call in message.tool_calls or [] %}
      {{- '\\n' if message.content or not loop.first else '' }}
      {{- '<tool_call>\\n{"name": "' ~ call.function.name ~ '", "arguments": ' }}
      {{- call.function.arguments | tojson }}
      {{- '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
  {%- elif message.role == 'tool' %}
    {{- '<|im_start|>user' if messages[loop.index0 - 1].role != 'tool' else '' }}
    {{- '\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response>' }}
    {{- '<|im_end|>\\n' if loop.last or messages[loop.index0 + 1].role != 'tool' else '' }}
  {%- elif not (loop.first and message.role == 'system') %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
  {%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' }}
"""

HERMES_TOOLS = """
{{- "# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n" }}
{{- "You are provided with function signatures within <tools></tools> XML tags:\\n<tools>" }}
{%- for tool in tools %}{{ "\\n" }}{{ tool | tojson }}{% endfor %}
{{- "\\n</tools>\\n\\nFor each function call, " }}
{{- "return a json object with function name and arguments within <tool_call></tool_call> XML" }}
{{- " tags:\\n<tool_call>\\n" }}
"""

QWEN25 = (
    """
{%- set system = messages[0].content if messages[0].role == 'system' else
   'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' %}
{{- '<|im_start|>system\\n' ~ system }}
{%- if tools %}{{ '\\n\\n' }}
"""
    + HERMES_TOOLS
    + """
{{- "{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call>" }}
{%- endif %}
{{- '<|im_end|>\\n' }}
"""
    + CHATML_TURNS
)

QWEN3 = (
    """
{%- set thinks = true %}
{#- last_query_index #}
{%- set ns = namespace(query=messages|length) %}
{%- for message in messages %}
  {%- if message.role == 'user' and not (message.content.startswith('<tool_response>')
      and message.content.endswith('</tool_response>')) %}
    {%- set ns.query = loop.index0 %}
  {%- endif %}
{%- endfor %}
{%- set has_system = messages[0].role == 'system' %}
{%- if has_system or tools %}
  {{- '<|im_start|>system\\n' }}
  {{- messages[0].content if has_system else '' }}
  {%- if tools %}{{ '\\n\\n' if has_system else '' }}
"""
    + HERMES_TOOLS
    + """
    {{- "{\\"name\\": <function-name>, \\"arguments\\": <args-json-object>}\\n</tool_call>" }}
  {%- endif %}
  {{- '<|im_end|>\\n' }}
{%- endif %}
"""
    + CHATML_TURNS
)

QWEN3_CODER = """
{%- macro shown(value) %}
  {{- value | tojson if value is mapping or (value is sequence and value is not string)
      else value | string }}
{%- endmacro %}
{%- macro extra(fields, known) %}
  {%- for key, value in fields.items() if key not in known %}
    {{- '\\n<' ~ key ~ '>' }}
    {{- shown(value) }}
    {{- '</' ~ key ~ '>' }}
  {%- endfor %}
{%- endmacro %}
{%- set has_system = messages[0].role == 'system' %}
{%- if has_system or tools %}
  {{- '<|im_start|>system\\n' }}
  {{- messages[0].content if has_system else
      'You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks.' }}
  {%- if tools %}
    {{- '\\n\\n# Tools\\n\\nYou have access to the following tools:\\n\\n<tools>' }}
    {%- for tool in tools %}
      {{- '\\n<function>\\n<name>' ~ tool.function.name ~ '</name>' }}
      {{- '\\n<description>' ~ tool.function.description | trim ~ '</description>\\n<parameters>' }}
      {%- for name, fields in (tool.function.parameters.properties or {}).items() %}
        {{- '\\n<parameter>\\n<name>' ~ name ~ '</name>' }}
        {%- if fields.type is defined %}{{ '\\n<type>' ~ fields.type ~ '</type>' }}{% endif %}
        {%- if fields.description is defined %}
          {{- '\\n<description>' ~ fields.description | trim ~ '</description>' }}
        {%- endif %}
        {{- extra(fields, ['name', 'type', 'description']) ~ '\\n</parameter>' }}
      {%- endfor %}
      {{- extra(tool.function.parameters, ['type', 'properties']) }}
      {{- '\\n</parameters>\\n</function>' }}
    {%- endfor %}
    {{- '\\n</tools>\\n\\nIf you choose to call a tool ONLY reply in the following format with ' }}
    {{- 'NO suffix:\\n\\n<tool_call>\\n<function=example_function_name>\\n' }}
    {%- for value in ['value_1', 'value_2'] %}
      {{- '<parameter=example_parameter_' ~ loop.index ~ '>\\n' ~ value ~ '\\n</parameter>\\n' }}
    {%- endfor %}
    {{- '</function>\\n</tool_call>\\n\\n<IMPORTANT>\\nReminder:\\n' }}
    {{- '- Function calls MUST follow the specified format: the tool calling block MUST ' }}
    {{- 'begin with an opening <tool_call> tag and end with a closing </tool_call> tag.\\n' }}
    {{- '- Required parameters MUST be specified\\n' }}
    {{- '- You may provide optional reasoning for your function call in natural language ' }}
    {{- 'BEFORE the function call, but NOT after\\n- If there is no function call available, ' }}
    {{- 'answer the question like normal with your current knowledge and do not tell the user ' }}
    {{- 'about function calls\\n</IMPORTANT>' }}
  {%- endif %}
  {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
  {%- if message.role == 'tool' %}
    {{- '<|im_start|>user\\n' if messages[loop.index0 - 1].role != 'tool' else '' }}
    {{- '<tool_response>\\n' ~ message.content ~ '\\n</tool_response>\\n' }}
    {{- '<|im_end|>\\n' if loop.last or messages[loop.index0 + 1].role != 'tool' else '' }}
  {%- elif message.tool_calls %}
    {{- '<|im_start|>assistant' }}
    {{- '\\n' ~ message.content | trim ~ '\\n' if message.content | trim else '' }}
    {%- for call in message.tool_calls %}
      {{- '\\n<tool_call>\\n<function=' ~ call.function.name ~ '>\\n' }}
      {%- for key, value in call.function.arguments.items() %}
        {{- '<parameter=' ~ key ~ '>\\n' }}
        {{- shown(value) }}
        {{- '\\n</parameter>\\n' }}
      {%- endfor %}
      {{- '</function>\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
  {%- elif not (loop.first and message.role == 'system') %}
    {{- '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
  {%- endif %}
{%- endfor %}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' }}
"""
