"""What is proposed did stand in the text, after the same tokens as now."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qcode.engine.speculation.prompt_lookup import INDEXED_TOKENS, MAX_MATCHED, PromptLookup

# Few different tokens, so that texts repeat themselves; long repeats come from joined pieces.
TOKENS = st.integers(0, 4)
TEXTS = st.lists(TOKENS, max_size=60)
REPEATING = st.lists(
    st.sampled_from([(1, 2, 3, 4, 0), (2, 2, 2), (4, 1, 3), (0,)]), max_size=14
).map(lambda pieces: [token for piece in pieces for token in piece])


def last_occurs_before(text: list[int]) -> bool:
    """Whether the last few tokens stand earlier in the text too."""
    last = text[-INDEXED_TOKENS:]
    return len(last) == INDEXED_TOKENS and any(
        text[i : i + INDEXED_TOKENS] == last for i in range(len(text) - INDEXED_TOKENS)
    )


@settings(max_examples=300, deadline=None)
@given(prompt=TEXTS | REPEATING, answer=TEXTS | REPEATING, num_tokens=st.integers(1, 12))
def test_a_continuation_is_what_followed_the_same_tokens(
    prompt: list[int], answer: list[int], num_tokens: int
) -> None:
    lookup = PromptLookup(prompt)
    text = list(prompt)
    for token in answer:
        predicted = lookup.continuation(1)
        is_hit = lookup.add(token)
        text.append(token)

        assert is_hit == ((predicted == [token]) if predicted else None)
        draft = lookup.continuation(num_tokens)
        assert bool(draft) == (lookup.matched is not None)
        if last_occurs_before(text):
            assert lookup.matched is not None
        if lookup.matched:
            last = text[-lookup.matched :]
            # What a text that repeats itself says of its future includes what was just said.
            whole = text + draft
            assert any(
                whole[i : i + len(last) + len(draft)] == last + draft
                for i in range(len(text) - len(last))
            )


@settings(max_examples=100, deadline=None)
@given(prompt=TEXTS | REPEATING, answer=TEXTS | REPEATING)
def test_tokens_one_by_one_are_found_as_tokens_at_once(
    prompt: list[int], answer: list[int]
) -> None:
    one_by_one = PromptLookup(prompt)
    for token in answer:
        one_by_one.add(token)
    at_once = PromptLookup([*prompt, *answer])

    # Who was led here by a longer match may know more, never less.
    assert (one_by_one.matched or 0) >= (at_once.matched or 0)


def test_a_file_is_copied_with_a_token_changed() -> None:
    file = list(range(100, 140))
    lookup = PromptLookup([*file, 1, 2, 3])
    for token in file[:10]:
        lookup.add(token)
    assert lookup.matched == 10
    assert lookup.continuation(5) == file[10:15]

    assert lookup.add(7) is False
    assert (lookup.matched, lookup.continuation(3)) == (0, file[11:14])
    assert lookup.add(file[11]) is True
    assert lookup.continuation(3) == file[12:15]

    for token in (8, 9):
        lookup.add(token)
    assert lookup.matched is None
    assert lookup.continuation(3) == []
    for token in file[20:23]:
        lookup.add(token)
    assert lookup.continuation(3) == file[23:26]


def test_a_source_is_copied_to_its_end_and_not_beyond() -> None:
    source, other = [1, 2, 3, 4, 5], [6, 7, 8, 9]
    lookup = PromptLookup([50, 51], [source, other])
    for token in source[:3]:
        lookup.add(token)

    assert lookup.continuation(10) == [4, 5]
    lookup.add(4)
    lookup.add(5)
    assert lookup.continuation(10) == []


def test_what_joins_two_texts_is_in_none_of_them() -> None:
    lookup = PromptLookup([7, 8], [[1, 2], [3, 4, 5]])
    for token in (2, 3, 4):
        lookup.add(token)

    assert lookup.continuation(4) == []


def test_the_place_with_the_longest_match_is_taken_and_the_latest_of_several() -> None:
    text = [9, 9, 1, 2, 3, 40, 8, 1, 2, 3, 41, 7, 1, 2, 3, 42]
    for before, matched, following in (
        ([0], 3, 42),
        ([8], 4, 41),
        ([9], 4, 40),
        ([9, 9], 5, 40),
    ):
        lookup = PromptLookup([*text, *before])
        for token in (1, 2, 3):
            lookup.add(token)
        assert (lookup.matched, lookup.continuation(1)) == (matched, [following])


def test_what_repeats_without_end_is_expected_to_go_on() -> None:
    lookup = PromptLookup([5, 6, 7, 5, 6, 7])

    assert lookup.continuation(7) == [5, 6, 7, 5, 6, 7, 5]
    for i in range(1000):
        assert lookup.add([5, 6, 7][i % 3]) is True
    assert lookup.matched == MAX_MATCHED
