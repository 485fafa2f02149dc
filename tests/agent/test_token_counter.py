"""Tokens are counted where that is possible, and estimated from what was learned where not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qcode.agent.token_counter import TokenCounter
from qcode.protocol.backends import ChatRequest
from qcode.protocol.messages import Usage, UserMessage


def request_of(num_chars: int) -> ChatRequest:
    return ChatRequest(system="s" * num_chars, messages=())


def test_the_estimate_learns_from_usage_within_bounds() -> None:
    counter = TokenCounter()
    assert counter.tokens(4_000) == 1_000
    counter.observe(request_of(4_000), Usage(input_tokens=2_000))
    assert counter.tokens(4_000) == 2_000
    counter.observe(request_of(4_000), Usage(input_tokens=400_000))
    assert counter.tokens(4_000) == 4_000
    counter.observe(request_of(4_000), Usage(input_tokens=0))
    counter.observe(request_of(10), Usage(input_tokens=10))
    assert counter.tokens(4_000) == 4_000


@given(st.lists(st.text(max_size=400), max_size=8))
def test_no_estimate_exceeds_what_is_called_at_most(texts: list[str]) -> None:
    counter = TokenCounter()
    messages = tuple(UserMessage(content=text) for text in texts)
    request = ChatRequest(system="", messages=messages)
    assert counter.count_blocking(request) <= counter.at_most(request)
