"""Fill in the middle: prompts for what stands between two pieces of text.

The format is that of Qwen2.5-Coder's technical report (Hui et al. 2024): prefix, suffix, middle,
with the rest of a repository before it where that helps.
"""

from __future__ import annotations

from dataclasses import dataclass

from qcode.engine.chat.prompt import PromptBuilder, PromptPiece
from qcode.engine.tokenizer import Tokenizer
from qcode.protocol.errors import EngineError

PREFIX, SUFFIX, MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
REPOSITORY, FILE = "<|repo_name|>", "<|file_sep|>"

ENDS = (PREFIX, SUFFIX, "<|fim_pad|>", REPOSITORY, FILE, "<|endoftext|>", "<|im_end|>")
"""What follows a middle: the next file, or the end of the text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryFile:
    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryContext:
    """Other files of the repository, and where in it the text to fill in stands."""

    name: str
    path: str
    files: tuple[RepositoryFile, ...] = ()


def fim_pieces(
    prefix: str, suffix: str, repository: RepositoryContext | None = None
) -> tuple[PromptPiece, ...]:
    """The prompt as text; what looks like markup in the files stays text."""
    prompt = PromptBuilder()
    if repository is not None:
        prompt.markup(REPOSITORY)
        prompt.content(f"{repository.name}\n")
        for file in repository.files:
            prompt.markup(FILE)
            prompt.content(f"{file.path}\n{file.text}\n")
        prompt.markup(FILE)
        prompt.content(f"{repository.path}\n")
    prompt.markup(PREFIX)
    prompt.content(prefix)
    prompt.markup(SUFFIX)
    prompt.content(suffix)
    prompt.markup(MIDDLE)
    return prompt.pieces()


def fim_prompt(
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    repository: RepositoryContext | None = None,
) -> list[int]:
    """The tokens of the prompt. Raises `EngineError` for a vocabulary without its markup."""
    needed = [PREFIX, SUFFIX, MIDDLE] + ([REPOSITORY, FILE] if repository is not None else [])
    missing = [text for text in needed if tokenizer.special_id(text) is None]
    if missing:
        raise EngineError(
            f"this model cannot fill in the middle: its vocabulary has no {', '.join(missing)}",
            "Use a Qwen coder model, or leave out the suffix to continue the text.",
        )
    return tokenizer.encode_prompt(fim_pieces(prefix, suffix, repository))


def fim_stop_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end a middle, of those that the vocabulary has."""
    ids = (tokenizer.special_id(text) for text in ENDS)
    return tuple(id_ for id_ in ids if id_ is not None)
