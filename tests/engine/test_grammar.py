from __future__ import annotations

import json
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


TOOLS: list[tuple[str, dict[str, object]]] = [
    (
        "read_file",
        {
            "type": "object",
            "properties": {"path": {"type": "string"}, "limit": {"type": "integer"}},
            "required": ["path"],
            "additionalProperties": False,
        },
    ),
    ("stop", {"type": "object", "properties": {}, "additionalProperties": False}),
]


def test_free_text_is_free_until_a_call_opens_and_after_it_closes(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    constraint = compiler.tool_calls(TOOLS)
    assert constraint is not None
    call = '\n{"name": "read_file", "arguments": {"path": "a.py", "limit": 3}}\n'
    opening, closing = (tokenizer.special_id(tag) for tag in ("<tool_call>", "</tool_call>"))
    assert opening is not None
    assert closing is not None

    for token in tokenizer.encode("I will read it. "):
        assert constraint.allowed() is None
        constraint.consume(token)
    constraint.consume(opening)
    for token in [*tokenizer.encode(call), closing]:
        assert token in allowed_ids(constraint)
        constraint.consume(token)

    assert constraint.allowed() is None
    assert not constraint.is_complete


def test_inside_a_call_only_offered_names_and_fitting_arguments(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    opening, closing = (tokenizer.special_id(tag) for tag in ("<tool_call>", "</tool_call>"))
    assert opening is not None
    for seed in range(20):
        constraint = compiler.tool_calls(TOOLS)
        assert constraint is not None
        constraint.consume(opening)
        rng, ids = random.Random(seed), list[int]()
        while constraint.allowed() is not None and len(ids) < 300:
            allowed = sorted(allowed_ids(constraint))
            assert not tokenizer.eos_ids & set(allowed)
            # Random strings are long; closing quotes and braces end them sooner.
            ending = [i for i in allowed if tokenizer.token_bytes(i) in (b'"', b"}")]
            token = rng.choice(ending or allowed)
            constraint.consume(token)
            ids.append(token)
        assert ids[-1] == closing
        call = json.loads(tokenizer.decode(ids[:-1]))
        assert call["name"] in {"read_file", "stop"}
        assert set(call["arguments"]) <= {"path", "limit"}
        assert ("path" in call["arguments"]) == (call["name"] == "read_file")


def test_a_schema_that_cannot_be_expressed_leaves_an_object(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    constraint = compiler.tool_calls([("odd", {"type": "no such type"})])
    opening, closing = (tokenizer.special_id(tag) for tag in ("<tool_call>", "</tool_call>"))
    assert constraint is not None
    assert opening is not None
    assert closing is not None
    call = '\n{"name": "odd", "arguments": {"any": [1]}}\n'

    for token in [opening, *tokenizer.encode(call), closing]:
        constraint.consume(token)

    assert constraint.allowed() is None


SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["pass", "fail"]},
        "lines": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
    },
    "required": ["verdict", "lines"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_masks_of_a_schema_allow_obeys_it(
    compiler: GrammarCompiler, tokenizer: Tokenizer, seed: int
) -> None:
    value = json.loads(tokenizer.decode(walk(compiler.json_value(SCHEMA), tokenizer, seed)))
    assert value["verdict"] in ("pass", "fail")
    assert len(value["lines"]) <= 3
    assert all(isinstance(line, int) for line in value["lines"])


def test_what_cannot_be_expressed_of_a_schema_does_not_constrain(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    constraint = compiler.json_value(
        {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    )
    for token in tokenizer.encode("[1, 1]"):
        constraint.consume(token)
    with pytest.raises(EngineError, match="does not compile"):
        compiler.json_value({"type": "no such type"})
