from __future__ import annotations

import random
import re

import pytest
from random_checkpoint import write_tokenizer_json

from qcode.engine.checkpoint.vocabulary import vocabulary_from_directory
from qcode.engine.grammar import Constraint, GrammarCompiler
from qcode.engine.tokenizer import Tokenizer
from qcode.protocol.errors import EngineError

NUM_ROWS = 400
CALCULATION = r"""
start: "def " NAME "(" (NAME ("," " " NAME)*)? ")" ":"
NAME: /[a-z_]{1,8}/
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer_json(directory / "tokenizer.json")
    vocabulary = vocabulary_from_directory(directory)
    ends = (vocabulary.special_tokens[text] for text in ("<|im_end|>", "<|endoftext|>"))
    return Tokenizer(vocabulary, eos_ids=frozenset(ends))


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(
        tokenizer.encoding, num_tokens=NUM_ROWS, eos_ids=sorted(tokenizer.eos_ids)
    )


def allowed_ids(constraint: Constraint) -> set[int]:
    mask = constraint.allowed()
    assert mask is not None
    assert mask.shape == (NUM_ROWS,)
    return set(mask.nonzero().flatten().tolist())


def walk(constraint: Constraint, tokenizer: Tokenizer, seed: int) -> list[int]:
    """Follow the masks at random until the answer may end."""
    rng, ids = random.Random(seed), []
    while not constraint.is_complete and len(ids) < 400:
        allowed = sorted(allowed_ids(constraint))
        token = rng.choice(allowed)
        if token in tokenizer.eos_ids:
            break
        constraint.consume(token)
        ids.append(token)
    return ids


def test_whatever_the_masks_allow_is_a_text_of_the_grammar(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    for seed in range(20):
        text = tokenizer.decode(walk(compiler.compile(CALCULATION), tokenizer, seed))
        assert re.fullmatch(r"def [a-z_]{1,8}\(([a-z_]{1,8}(, [a-z_]{1,8})*)?\):", text)


def test_natural_tokens_stay_allowed_and_the_end_only_where_a_text_may_end(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    constraint = compiler.compile('start: "return" " value"?')
    ids = tokenizer.encode("return value")
    seen_end = []
    for token in ids:
        allowed = allowed_ids(constraint)
        assert token in allowed
        seen_end.append(tokenizer.eos_ids <= allowed)
        constraint.consume(token)

    assert not seen_end[0]
    assert any(seen_end) == ("return" in [tokenizer.decode(ids[:n]) for n in range(len(ids))])
    assert constraint.is_complete


def test_a_token_that_is_not_allowed_is_an_error(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    constraint = compiler.compile('start: "a"')

    with pytest.raises(EngineError, match="grammar"):
        constraint.consume(tokenizer.encode("z")[0])

    assert allowed_ids(constraint) == set()


def test_a_wrong_grammar_is_named_with_the_librarys_reason(compiler: GrammarCompiler) -> None:
    with pytest.raises(EngineError, match="nowhere"):
        compiler.compile("start: nowhere")
