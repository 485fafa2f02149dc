"""Prompts for what stands between two pieces of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcode.engine.checkpoint.vocabulary import Vocabulary
from qcode.engine.fim import (
    RepositoryContext,
    RepositoryFile,
    fim_pieces,
    fim_prompt,
    fim_stop_ids,
)
from qcode.engine.tokenizer import Tokenizer
from qcode.protocol.errors import EngineError

MARKUP = (
    "<|endoftext|>",
    "<|im_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)


def tokenizer_with(*special_tokens: str) -> Tokenizer:
    """One token for each byte, and these: the first has id 256."""
    vocabulary = Vocabulary(
        ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={text: 256 + i for i, text in enumerate(special_tokens)},
        nfc=True,
    )
    return Tokenizer(vocabulary, eos_ids=frozenset({256}))


TOKENIZER = tokenizer_with(*MARKUP)
ID = {text: 256 + i for i, text in enumerate(MARKUP)}


def test_a_prompt_is_prefix_suffix_middle() -> None:
    assert fim_prompt(TOKENIZER, "ab", "c") == [
        ID["<|fim_prefix|>"],
        *b"ab",
        ID["<|fim_suffix|>"],
        *b"c",
        ID["<|fim_middle|>"],
    ]


def test_a_repository_comes_first() -> None:
    repository = RepositoryContext(
        name="shop",
        path="cart.py",
        files=(RepositoryFile(path="a.py", text="x = 1"), RepositoryFile(path="b.py", text="")),
    )

    pieces = fim_pieces("p", "s", repository)

    assert "".join(piece.text for piece in pieces) == (
        "<|repo_name|>shop\n"
        "<|file_sep|>a.py\nx = 1\n"
        "<|file_sep|>b.py\n\n"
        "<|file_sep|>cart.py\n"
        "<|fim_prefix|>p<|fim_suffix|>s<|fim_middle|>"
    )
    ids = fim_prompt(TOKENIZER, "p", "s", repository)
    assert [id_ for id_ in ids if id_ >= 256] == [
        ID["<|repo_name|>"],
        *[ID["<|file_sep|>"]] * 3,
        ID["<|fim_prefix|>"],
        ID["<|fim_suffix|>"],
        ID["<|fim_middle|>"],
    ]


@given(texts=st.lists(st.lists(st.sampled_from([*MARKUP, "a", "\n"])), min_size=6, max_size=6))
def test_markup_in_files_stays_text(texts: list[list[str]]) -> None:
    prefix, suffix, *rest = ("".join(parts) for parts in texts)
    name, path, other_path, other = rest
    files = (RepositoryFile(path=other_path, text=other),)

    ids = fim_prompt(
        TOKENIZER, prefix, suffix, RepositoryContext(name=name, path=path, files=files)
    )

    assert [id_ for id_ in ids if id_ >= 256] == [
        ID["<|repo_name|>"],
        ID["<|file_sep|>"],
        ID["<|file_sep|>"],
        ID["<|fim_prefix|>"],
        ID["<|fim_suffix|>"],
        ID["<|fim_middle|>"],
    ]
    assert bytes(id_ for id_ in ids if id_ < 256).decode() == (
        f"{name}\n{other_path}\n{other}\n{path}\n{prefix}{suffix}"
    )


def test_a_vocabulary_without_the_markup_is_refused_by_name() -> None:
    plain = tokenizer_with("<|endoftext|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    assert fim_prompt(plain, "a", "b")
    with pytest.raises(EngineError, match=r"<\|repo_name\|>, <\|file_sep\|>"):
        fim_prompt(plain, "a", "b", RepositoryContext(name="r", path="p"))
    with pytest.raises(EngineError, match=r"cannot fill in the middle.*<\|fim_middle\|>"):
        fim_prompt(tokenizer_with("<|fim_prefix|>", "<|fim_suffix|>"), "a", "b")


def test_a_middle_ends_at_the_tokens_the_vocabulary_has() -> None:
    ends = set(MARKUP) - {"<|fim_middle|>"}
    assert set(fim_stop_ids(TOKENIZER)) == {ID[text] for text in ends}
    assert fim_stop_ids(tokenizer_with("<tool_call>", "<|im_end|>")) == (257,)
