"""Reads a byte-level BPE vocabulary from tokenizer.json, vocab.json with merges.txt, or GGUF.

Merges are not kept: in these vocabularies merge number m makes the token with id 256 + m, so the
ids carry their order. That is checked, because merging by id is wrong where it does not hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcode.engine.checkpoint.json_file import read_json
from qcode.protocol.errors import CheckpointError, UnsupportedModel

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 and Qwen3 cut text before they merge. A file's own pattern is never run."""

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
MAX_TOKEN_ID = 2**22


def _latin1_of_character() -> dict[int, int]:
    """GPT-2's printable stand-in for each byte, reversed: code point -> byte, for translation.

    What stands for no byte is sent beyond Latin-1, where encoding it fails.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = dict.fromkeys(others, 0xFFFF)
    return table | {256 + i: byte for i, byte in enumerate(others)}


_LATIN1_OF_CHARACTER = _latin1_of_character()
_CHARACTER_OF_LATIN1 = {byte: char for char, byte in _LATIN1_OF_CHARACTER.items() if byte < 256}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Token bytes and their ids, which are also the order in which pairs merge."""

    ranks: Mapping[bytes, int]
    special_tokens: Mapping[str, int]
    """Tokens that stand for markup and never come out of ordinary text."""
    nfc: bool
    """Whether text is brought to Unicode normal form C first."""


def vocabulary_from_directory(path: Path) -> Vocabulary:
    """From the tokenizer files of a safetensors checkpoint.

    Raises CheckpointError, UnsupportedModel.
    """
    if (path / "tokenizer.json").exists():
        return _from_tokenizer_json(path / "tokenizer.json")
    return _from_vocab_and_merges(path)


def vocabulary_from_gguf(metadata: Mapping[str, object], source: str) -> Vocabulary:
    """From GGUF metadata. Raises CheckpointError, UnsupportedModel."""
    model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if model != "gpt2" or pre != "qwen2":
        raise UnsupportedModel(f"{source}: the tokenizer {model!r} / {pre!r} is not supported")
    texts = _strings(metadata.get("tokenizer.ggml.tokens"), source)
    merges = _strings(metadata.get("tokenizer.ggml.merges"), source)
    kinds = metadata.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, Sequence) or len(kinds) != len(texts):
        raise CheckpointError(f"{source}: the token types do not match the tokens")
    if not set(kinds) <= {_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED}:
        raise UnsupportedModel(f"{source}: a vocabulary with token types {sorted(set(kinds))}")
    special_kinds = (_CONTROL, _USER_DEFINED)
    return _checked(
        # Never a list of pairs: the garbage collector would walk all of them again and again.
        tokens=((text, i) for i, text in enumerate(texts) if kinds[i] == _NORMAL),
        merged=[merge.replace(" ", "", 1) for merge in merges],
        special_tokens=[(text, i) for i, text in enumerate(texts) if kinds[i] in special_kinds],
        source=source,
    )


def _from_tokenizer_json(path: Path) -> Vocabulary:
    source = str(path)
    content = read_json(path)
    model = _object(content.get("model"), source)
    if model.get("type") != "BPE" or not _cuts_like_qwen2(content.get("pre_tokenizer")):
        raise UnsupportedModel(f"{source}: not the byte-level tokenizer of the Qwen2 family")
    normalizer = content.get("normalizer")
    if normalizer not in (None, {"type": "NFC"}):
        raise UnsupportedModel(f"{source}: the normalizer {normalizer!r} is not supported")
    added = content.get("added_tokens") or []
    if not isinstance(added, list):
        raise CheckpointError(f"{source}: added_tokens is not a list")
    return _checked(
        tokens=_object(model.get("vocab"), source).items(),
        merged=_merged(model.get("merges"), source),
        special_tokens=[_added_token(_object(token, source), source) for token in added],
        source=source,
        nfc=normalizer is not None,
    )


def _from_vocab_and_merges(directory: Path) -> Vocabulary:
    source = str(directory / "vocab.json")
    config = read_json(directory / "tokenizer_config.json", optional=True)
    added = _object(config.get("added_tokens_decoder") or {}, source)
    try:
        merges = (directory / "merges.txt").read_text("utf-8").split("\n")
        special_tokens = [
            _added_token({**_object(token, source), "id": int(number)}, source)
            for number, token in added.items()
        ]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{directory}: the tokenizer cannot be read: {error}") from error
    if merges[0].startswith("#version"):
        del merges[0]
    return _checked(
        tokens=read_json(directory / "vocab.json").items(),
        merged=_merged([merge for merge in merges if merge], source),
        special_tokens=special_tokens,
        source=source,
    )


def _cuts_like_qwen2(pre_tokenizer: object) -> bool:
    match pre_tokenizer:
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"},
                {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
            ],
        }:
            return bool(pattern == QWEN2_PATTERN)
    return False


def _added_token(token: Mapping[str, object], source: str) -> tuple[str, int]:
    match token:
        case {"content": str(text), "id": int(number)} if text:
            pass
        case _:
            raise CheckpointError(f"{source}: the added token {token!r} is malformed")
    if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
        raise UnsupportedModel(f"{source}: the added token {text!r} takes in its surroundings")
    return text, number


def _merged(merges: object, source: str) -> list[str]:
    """The token each merge makes. New files write a merge as a list of two, old ones as words."""
    if not isinstance(merges, list):
        raise CheckpointError(f"{source}: the merges are missing")
    try:
        return [m.replace(" ", "", 1) if isinstance(m, str) else "".join(m) for m in merges]
    except TypeError as error:
        raise CheckpointError(f"{source}: the merges are malformed") from error


def _checked(
    *,
    tokens: Iterable[tuple[str, object]],
    merged: Sequence[str],
    special_tokens: Sequence[tuple[str, int]],
    source: str,
    nfc: bool = True,
) -> Vocabulary:
    """Raises CheckpointError where the ids are not in the order of the merges."""
    ranks: dict[bytes, int] = {}
    texts: dict[int, str] = {}
    for text, number in tokens:
        if not isinstance(number, int):
            raise CheckpointError(f"{source}: token {text!r} has the id {number!r}")
        texts[number] = text
        ranks[_token_bytes(text, source)] = number
    for number, token in enumerate(merged, start=256):
        if texts.get(number) != token:
            raise UnsupportedModel(f"{source}: token {number} is not merge {number - 256}")
    if texts.keys() != set(range(256 + len(merged))) or len(ranks) != len(texts):
        raise CheckpointError(f"{source}: the vocabulary and its merges do not match")
    if not all(bytes((byte,)) in ranks for byte in range(256)):
        raise CheckpointError(f"{source}: the vocabulary lacks single bytes")
    specials = {text: number for text, number in special_tokens if number >= len(ranks)}
    if len(set(specials.values())) < len(special_tokens):
        raise CheckpointError(f"{source}: two tokens have the same id or text")
    if max(specials.values(), default=0) > MAX_TOKEN_ID:
        raise CheckpointError(f"{source}: an impossible token id")
    return Vocabulary(ranks=ranks, special_tokens=specials, nfc=nfc)


def _token_bytes(text: str, source: str) -> bytes:
    try:
        return text.translate(_LATIN1_OF_CHARACTER).encode("latin-1")
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{source}: token {text!r} is not byte-level") from error


def byte_level_text(token: bytes) -> str:
    """How files write the bytes of a token: the reverse of reading them."""
    return token.decode("latin-1").translate(_CHARACTER_OF_LATIN1)


def _strings(value: object, source: str) -> Sequence[str]:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise CheckpointError(f"{source}: the vocabulary is missing or malformed")


def _object(value: object, source: str) -> Mapping[str, object]:
    if isinstance(value, dict):
        return value
    raise CheckpointError(f"{source}: the tokenizer is missing or malformed")
