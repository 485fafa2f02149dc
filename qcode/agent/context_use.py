"""What fills the context window, in tokens."""

from __future__ import annotations

from dataclasses import replace

from qcode.agent.compaction import compaction_threshold
from qcode.agent.token_counter import TokenCounter
from qcode.protocol.backends import ChatRequest
from qcode.protocol.messages import UserMessage
from qcode.protocol.values import dataclass

FIXED_LIMIT_TOKENS = {"full": 4_000, "lean": 1_500}
"""The most that system prompt and tools of each profile take, without a project's instructions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextUse:
    """Tokens of each part of the next request. `exact` says that the model's own vocabulary
    counted them."""

    system: int
    tools: tuple[tuple[str, int], ...]
    tools_total: int
    conversation: int
    window: int | None
    exact: bool

    @property
    def total(self) -> int:
        return self.system + self.tools_total + self.conversation

    def report(self) -> str:
        """A table for people."""
        rows = [
            ("System prompt", self.system),
            (f"Tools ({len(self.tools)})", self.tools_total),
            *((f"  {name}", tokens) for name, tokens in self.tools),
            ("Both, in every request", self.system + self.tools_total),
            ("Conversation", self.conversation),
            ("Together", self.total),
        ]
        lines = [f"{name:<24}{tokens:>9,}" for name, tokens in rows]
        counted = "by the model's own tokenizer" if self.exact else "estimated from its answers"
        lines.append(f"Tokens, {counted}.")
        if self.window is None:
            return "\n".join([*lines, "The window is not known."])
        lines.append(
            f"{self.total / self.window:.0%} of a window of {self.window:,}; shortened past "
            f"{round(compaction_threshold(self.window)):,}, or with /compact."
        )
        return "\n".join(lines)


def measure(request: ChatRequest, counter: TokenCounter, window: int | None) -> ContextUse:
    """Blocks: reads the vocabulary the first time."""
    count = counter.count_blocking
    probe = (UserMessage(content="."),)  # some templates refuse a conversation without a message
    bare = count(replace(request, system="", messages=probe, tools=()))
    system = count(replace(request, messages=probe, tools=())) - bare
    tools = []
    before = bare + system
    for number, tool in enumerate(request.tools, start=1):
        after = count(replace(request, messages=probe, tools=request.tools[:number]))
        tools.append((tool.name, after - before))
        before = after
    total = count(request) if request.messages else before
    return ContextUse(
        system=system,
        tools=tuple(tools),
        tools_total=before - bare - system,
        conversation=max(0, total - before),
        window=window,
        exact=counter.is_exact,
    )
