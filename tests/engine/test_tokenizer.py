"""The tokenizer gives the ids of the `tokenizers` package, and trusts no text with markup."""

from __future__ import annotations

import json
import os
import random
import sysconfig
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from random_checkpoint import (
    SPECIAL_TOKENS,
    random_vocabulary,
    write_gguf,
    write_safetensors,
    write_tokenizer_json,
)

from qcode.engine.checkpoint.gguf import GgufFile
from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.checkpoint.vocabulary import (
    QWEN2_PATTERN,
    vocabulary_from_directory,
    vocabulary_from_gguf,
)
from qcode.engine.models.loading import load_tokenizer
from qcode.engine.tokenizer import IncrementalDecoder, Tokenizer
from qcode.protocol.errors import CheckpointError, UnsupportedModel

SPECIAL_IDS = random_vocabulary().special_ids
FRAGMENTS = [
    *("self", "the ", "item", " is", "return", "def main(", "a_b", "...", "!?\n\n", "123", "4"),
    *(
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u2028",
        "\ufeff",
        "\x00",
        "\x7f",
        "'s",
        "'LL",
        "'\u017f",
    ),
    *("é", "e\u0301", "Å", "\u212b", "ﬁ", "ß", "İ", "가", "\u1100\u1161", "\ud7ff", "𝕏"),
    *("日本語", "Привет", "नमस्ते", "👩‍👩‍👧"),
]
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=12).map("".join)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return load_tokenizer(open_checkpoint(directory))


@pytest.fixture(scope="module")
def reference(directory: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))


def random_texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [
        "".join(
            rng.choice(FRAGMENTS) if rng.random() < 0.7 else random_character(rng)
            for _ in range(rng.randint(0, 20))
        )
        for _ in range(count)
    ]


def random_character(rng: random.Random) -> str:
    number = rng.randrange(1, 0x30000)
    return "?" if 0xD800 <= number < 0xE000 else chr(number)


def source_files() -> list[str]:
    """Some megabytes of Python: the modules of its standard library that are one file each."""
    folder = Path(sysconfig.get_path("stdlib"))
    return [path.read_text("utf-8") for path in sorted(folder.glob("*.py"))]


def test_ids_equal_the_tokenizers_package(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer
) -> None:
    for text in [*random_texts(4000, seed=1), *source_files()]:
        assert tokenizer.encode(text) == reference.encode(text).ids, repr(text)


@given(st.lists(texts | st.sampled_from(SPECIAL_TOKENS), max_size=6))
def test_trusted_prompts_equal_the_tokenizers_package(
    tokenizer: Tokenizer, reference: tokenizers.Tokenizer, parts: list[str]
) -> None:
    expected = reference.encode("".join(parts)).ids
    assert tokenizer.encode_prompt([("".join(parts), True)]) == expected
    apart = [(part, part in SPECIAL_TOKENS) for part in parts]
    assert tokenizer.encode_prompt(apart) == expected


@given(texts, texts, texts)
def test_pieces_between_special_tokens_are_one_run(
    tokenizer: Tokenizer, before: str, middle: str, after: str
) -> None:
    pieces = [("<|im_start|>" + before, True), (middle, False), (after + "<|im_end|>", True)]
    start, end = SPECIAL_IDS["<|im_start|>"], SPECIAL_IDS["<|im_end|>"]
    run = tokenizer.encode(before + middle + after)
    assert tokenizer.encode_prompt(pieces) == [start, *run, end]


@given(st.lists(texts | st.sampled_from([*SPECIAL_TOKENS, "<|im_", "start|>"]), max_size=6))
def test_untrusted_text_never_becomes_a_special_token(
    tokenizer: Tokenizer, parts: list[str]
) -> None:
    special = set(SPECIAL_IDS.values())
    assert special.isdisjoint(tokenizer.encode("".join(parts)))
    assert special.isdisjoint(tokenizer.encode_prompt([(part, False) for part in parts]))


def test_a_special_token_is_not_put_together_from_pieces(tokenizer: Tokenizer) -> None:
    assert SPECIAL_IDS["<|im_end|>"] not in tokenizer.encode_prompt(
        [("<|im_", True), ("end|>", False)]
    )
    assert SPECIAL_IDS["<|im_end|>"] not in tokenizer.encode_prompt(
        [("<|im_", True), ("end|>", True)]
    )


@given(texts)
def test_decoding_undoes_encoding_of_composed_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    normalized = b"".join(map(tokenizer.token_bytes, ids)).decode()
    assert tokenizer.decode(ids) == normalized
    assert tokenizer.encode(normalized) == ids


@given(st.lists(st.integers(0, random_vocabulary().num_tokens), max_size=12))
def test_incremental_decoding_equals_decoding(tokenizer: Tokenizer, ids: list[int]) -> None:
    decoder = IncrementalDecoder(tokenizer)
    assert "".join(decoder.feed([i]) for i in ids) + decoder.flush() == tokenizer.decode(ids)


@given(texts)
def test_incremental_decoding_shows_whole_characters_only(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("\ufffd", "")
    decoder = IncrementalDecoder(tokenizer)
    parts = [decoder.feed([i]) for i in tokenizer.encode(text)]
    assert "\ufffd" not in "".join(parts)
    assert decoder.flush() == ""


def test_what_is_held_back_is_replaced_on_flush(tokenizer: Tokenizer) -> None:
    decoder = IncrementalDecoder(tokenizer)
    euro = tokenizer.encode("€")
    assert [decoder.feed([i]) for i in euro] == ["", "", "€"]
    assert decoder.feed(euro[:2]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.feed(euro) == "€"


def test_special_tokens_are_found_and_decoded(tokenizer: Tokenizer) -> None:
    assert tokenizer.special_id("<tool_call>") == SPECIAL_IDS["<tool_call>"]
    assert tokenizer.special_id("<think>") is None
    assert tokenizer.special_id("self") is None
    assert tokenizer.eos_ids == {SPECIAL_IDS["<|im_end|>"], SPECIAL_IDS["<|endoftext|>"]}
    assert tokenizer.decode([SPECIAL_IDS["<tool_call>"]]) == "<tool_call>"
    assert tokenizer.num_tokens == random_vocabulary().num_tokens
    assert tokenizer.token_bytes(tokenizer.num_tokens) == b""
    assert tokenizer.encoding.n_vocab == tokenizer.num_tokens


def test_lone_surrogates_do_not_stop_it(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")).startswith("a")


@pytest.mark.parametrize("part", [" ", "a", "\n", "=", "é", " \t", "x \u3000"])
def test_endless_runs(tokenizer: Tokenizer, part: str) -> None:
    text = part * 1_200_000 + "end"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_source_gives_the_same_vocabulary(directory: Path, tmp_path: Path) -> None:
    expected = vocabulary_from_directory(directory)
    content = json.loads((directory / "tokenizer.json").read_text())

    old = tmp_path / "old"
    old.mkdir()
    (old / "vocab.json").write_text(json.dumps(content["model"]["vocab"]))
    merges = [" ".join(merge) for merge in content["model"]["merges"]]
    (old / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    added = {str(token["id"]): token for token in content["added_tokens"]}
    (old / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    assert vocabulary_from_directory(old) == expected

    words = tmp_path / "words"
    words.mkdir()
    content["model"]["merges"] = merges
    (words / "tokenizer.json").write_text(json.dumps(content))
    assert vocabulary_from_directory(words) == expected

    write_gguf(tmp_path / "model.gguf")
    assert vocabulary_from_gguf(GgufFile(tmp_path / "model.gguf").metadata, "gguf") == expected


def test_a_file_that_wants_no_normalisation_gets_none(tmp_path: Path) -> None:
    write_tokenizer_json(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {"normalizer": None}))
    tokenizer = Tokenizer(vocabulary_from_directory(tmp_path), eos_ids=frozenset())
    assert tokenizer.decode(tokenizer.encode("e\u0301")) == "e\u0301"


def changed(content: dict, *path: str | int, to: object) -> dict:
    """A copy of nested JSON with one value replaced."""
    copy = json.loads(json.dumps(content))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return copy


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        (("model", "merges", 0), ["z", "z"], UnsupportedModel),
        (("model", "merges", 0), "one", UnsupportedModel),
        (("model", "merges"), [], CheckpointError),
        (("model", "merges"), None, CheckpointError),
        (("model", "vocab", "!"), 7, CheckpointError),
        (("model", "vocab", "!"), "0", CheckpointError),
        (("model", "vocab", "日"), 9999, CheckpointError),
        (("model", "vocab"), [], CheckpointError),
        (("model", "type"), "Unigram", UnsupportedModel),
        (("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex"), "(a+)+b", UnsupportedModel),
        (("normalizer",), {"type": "Lowercase"}, UnsupportedModel),
        (("added_tokens", 1, "id"), 384, CheckpointError),
        (("added_tokens", 1, "id"), 5, CheckpointError),
        (("added_tokens", 1, "id"), 2**40, CheckpointError),
        (("added_tokens", 1, "content"), "", CheckpointError),
        (("added_tokens", 1, "lstrip"), True, UnsupportedModel),
        (("added_tokens",), {"a": 1}, CheckpointError),
    ],
)
def test_a_vocabulary_that_would_give_other_ids_is_refused(
    path: tuple[str | int, ...], value: object, error: type[Exception], tmp_path: Path
) -> None:
    write_tokenizer_json(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed(content, *path, to=value)))
    with pytest.raises(error, match=r"tokenizer\.json"):
        vocabulary_from_directory(tmp_path)


def test_more_tokens_than_embedding_rows_are_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path, vocab_size=random_vocabulary().num_tokens - 1)
    with pytest.raises(CheckpointError, match="embedding"):
        load_tokenizer(open_checkpoint(tmp_path))


@pytest.mark.weights
def test_real_vocabulary_equals_the_tokenizers_package() -> None:
    path = Path(os.environ["QCODE_TEST_MODELS"]) / "qwen2.5-coder-0.5b.gguf"
    metadata = GgufFile(path).metadata
    tokenizer = Tokenizer(vocabulary_from_gguf(metadata, str(path)), eos_ids=frozenset())
    reference = reference_from_gguf(metadata)
    for text in [*random_texts(20_000, seed=2), *source_files()]:
        assert tokenizer.encode(text) == reference.encode(text).ids, repr(text)
    prompt = "<|im_start|>user\nhi<|im_end|>\n<tool_call>"
    assert tokenizer.encode_prompt([(prompt, True)]) == reference.encode(prompt).ids
    assert tokenizer.special_id("<|im_end|>") == 151645
    assert tokenizer.num_tokens == 151665


def reference_from_gguf(metadata: dict) -> tokenizers.Tokenizer:
    kinds = metadata["tokenizer.ggml.token_type"]
    tokens = list(zip(metadata["tokenizer.ggml.tokens"], kinds, strict=True))
    vocabulary = {text: i for i, (text, kind) in enumerate(tokens) if kind == 1}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    reference = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    reference.normalizer = tokenizers.normalizers.NFC()
    reference.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(QWEN2_PATTERN), "isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    reference.add_tokens(
        [tokenizers.AddedToken(text, normalized=False) for text, kind in tokens if kind in (3, 4)]
    )
    return reference
