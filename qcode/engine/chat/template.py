"""How a conversation becomes a prompt and an answer becomes blocks, by model family."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from qcode.engine.chat.hermes import NO_THINKING, OPEN_THINKING, QWEN_IDENTITY, HermesTemplate
from qcode.engine.chat.jinja import JinjaTemplate, opens_thinking
from qcode.engine.chat.prompt import PromptPiece
from qcode.engine.chat.qwen3_coder import TOOLS_SENTENCE, Qwen3CoderTemplate
from qcode.engine.tool_grammar import CallFormat
from qcode.protocol.backends import ChatRequest
from qcode.protocol.chunks import Delta
from qcode.protocol.errors import UnsupportedModel
from qcode.protocol.messages import Block
from qcode.protocol.tools import ToolSpec

__all__ = ["ChatTemplate", "PromptPiece", "ToolCallParser", "choose_template"]


class ToolCallParser(Protocol):
    """Reads one answer as it is written. Never raises: what is not a call is text."""

    def feed(self, text: str) -> Iterable[Delta]:
        """The deltas that `text` settles. Anything that may still turn out to be markup is held
        back, so a delta is never taken back."""
        ...

    def flush(self, *, truncated: bool = False) -> Iterable[Delta]:
        """The deltas that were held back; nothing may be fed afterwards. Calling it is optional."""
        ...

    def finish(self, *, truncated: bool = False) -> tuple[Block, ...]:
        """The whole answer, the same however it was split. `truncated` says that the answer was
        cut by its token limit. A call that did not come to its end is text, not a call, though
        deltas of it may have been sent."""
        ...


class ChatTemplate(Protocol):
    """One family's prompt format."""

    @property
    def call_format(self) -> CallFormat | None:
        """How its models write calls after `<tool_call>`; None for a form we do not know."""
        ...

    @property
    def in_reasoning(self) -> bool:
        """Whether the prompt ends inside the model's thinking."""
        ...

    def render(self, request: ChatRequest) -> tuple[PromptPiece, ...]:
        """The prompt up to where the answer begins. A longer history extends the text of a
        shorter one. An assistant message with `raw` is rendered from it verbatim (`raw` is what
        the model wrote, without the token that ended its turn)."""
        ...

    def parser(self, tools: Sequence[ToolSpec], *, constrained: bool = False) -> ToolCallParser:
        """`constrained`: calls are written under a grammar of the tools."""
        ...


def choose_template(
    *, architecture: str, jinja_source: str | None, thinking: bool = True
) -> ChatTemplate:
    """The template for a checkpoint.

    `architecture` is its name in the file or in our config (`qwen2`, `qwen3moe`, `qwen3_next`,
    `Qwen3ForCausalLM`, ...); `jinja_source`, the template it ships, decides between formats of
    one architecture. Formats we know are rendered by our own code, others by the template itself.
    `thinking` False asks models that can be told not to think aloud.

    Raises:
        UnsupportedModel: an unknown family that ships no template.
    """
    source = jinja_source or ""
    if TOOLS_SENTENCE in source and "<function=" in source:
        return Qwen3CoderTemplate()
    if _HERMES_SENTENCE in source and "<|im_start|>" in source:
        return _hermes(source, thinking)
    if source:
        return JinjaTemplate(source, thinking=thinking)
    family = architecture.lower().replace("_", "")
    if family.startswith("qwen2"):
        return HermesTemplate()
    if family.startswith("qwen3next"):
        return Qwen3CoderTemplate()
    if family.startswith("qwen3"):
        prefill = "" if thinking else NO_THINKING
        return HermesTemplate(default_system=None, keeps_reasoning=True, prefill=prefill)
    raise UnsupportedModel(
        f"no chat template is known for a {architecture} model, and its checkpoint has none",
        "use a checkpoint that ships its chat template",
    )


_HERMES_SENTENCE = "return a json object with function name and arguments within <tool_call>"

_DOUBLED_EXAMPLE = re.compile(r'\{\{\\?"name\\?": <function-name>')


def _hermes(source: str, thinking: bool) -> HermesTemplate:
    prefill = ""
    if opens_thinking(source):
        prefill = OPEN_THINKING
    elif "enable_thinking" in source and not thinking:
        prefill = NO_THINKING
    return HermesTemplate(
        default_system=QWEN_IDENTITY if QWEN_IDENTITY in source else None,
        doubled_braces=_DOUBLED_EXAMPLE.search(source) is not None,
        keeps_reasoning="last_query_index" in source,
        prefill=prefill,
    )
