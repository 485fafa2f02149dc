"""Windows of a text that is longer than the context."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qcode.cli.model_score import windows


@given(num_tokens=st.integers(2, 5000), context_window=st.integers(2, 600))
def test_every_token_but_the_first_is_scored_once(num_tokens: int, context_window: int) -> None:
    scored: list[int] = []
    for start, end, first_new in windows(num_tokens, context_window):
        assert 0 <= start < first_new < end <= num_tokens
        assert end - start <= context_window
        # Half a context to go by, or all there is.
        assert start == 0 or first_new - start >= context_window // 2
        scored += range(first_new, end)
    assert scored == list(range(1, num_tokens))
