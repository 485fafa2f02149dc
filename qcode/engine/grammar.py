"""Constrained decoding: which tokens may come next.

Grammars are Lark grammars as llguidance reads them. llguidance runs an Earley parser over a
lexer of derivatives and walks the vocabulary as a trie, so a mask costs well under a millisecond
except inside long free strings.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from qcode.protocol.errors import EngineError

if TYPE_CHECKING:
    import tiktoken
    from llguidance import LLMatcher, LLTokenizer


class Constraint(Protocol):
    """What one answer may consist of. Not thread-safe; used by one sequence."""

    def allowed(self) -> Tensor | None:
        """[V] bool: the tokens that may come next, tokens that end the answer included where it
        may end; None while nothing is forbidden. Never raises: a constraint that broke allows
        nothing, and `consume` says why."""
        ...

    def consume(self, token: int) -> None:
        """Raises `EngineError` for a token that is not allowed."""
        ...

    @property
    def is_complete(self) -> bool:
        """Nothing more can follow."""
        ...


class GrammarConstraint:
    """The answer is a text of one grammar."""

    def __init__(self, matcher: LLMatcher, num_tokens: int) -> None:
        self._matcher = matcher
        self._num_tokens = num_tokens
        self._bits = torch.zeros(-(-num_tokens // 32) * 4, dtype=torch.uint8)
        self._shifts = torch.arange(8, dtype=torch.uint8)

    def allowed(self) -> Tensor:
        self._matcher.unsafe_compute_mask_ptr(self._bits.data_ptr(), self._bits.numel())
        if self._matcher.is_error():
            self._bits.zero_()
        unpacked = (self._bits[:, None] >> self._shifts) & 1
        return unpacked.view(-1)[: self._num_tokens].bool()

    def consume(self, token: int) -> None:
        self._matcher.consume_token(token)
        if self._matcher.is_error():
            raise EngineError(f"grammar: {self._matcher.get_error()}")

    @property
    def is_complete(self) -> bool:
        return bool(self._matcher.is_stopped())


class ToolCallConstraint:
    """Free text, but every call the model opens is one of the offered tools with arguments of
    its schema, written as `<tool_call>{"name": ..., "arguments": ...}</tool_call>`."""

    def __init__(self, compiler: GrammarCompiler, grammar: str, opening_token: int) -> None:
        self._compiler = compiler
        self._grammar = grammar
        self._opening_token = opening_token
        self._call: GrammarConstraint | None = None

    def allowed(self) -> Tensor | None:
        return self._call.allowed() if self._call is not None else None

    def consume(self, token: int) -> None:
        if self._call is not None:
            self._call.consume(token)
            if self._call.is_complete:
                self._call = None
        elif token == self._opening_token:
            self._call = self._compiler.compile(self._grammar)

    @property
    def is_complete(self) -> bool:
        return False


class GrammarCompiler:
    """Grammars to constraints for one tokenizer. May be used from any thread.

    llguidance needs most of a second to build its trie of the vocabulary: at the first use, or
    ahead of it on a thread of its own when `prepare` is called.
    """

    def __init__(
        self, encoding: tiktoken.Encoding, *, num_tokens: int, eos_ids: Sequence[int]
    ) -> None:
        """`num_tokens` is the size of the model's vocabulary, not of the tokenizer's."""
        self._encoding = encoding
        self._num_tokens = num_tokens
        self._eos_ids = list(eos_ids)
        self._lock = threading.Lock()
        self._tokenizer: LLTokenizer | None = None

    def prepare(self) -> None:
        threading.Thread(target=self._vocabulary, name="grammar vocabulary", daemon=True).start()

    def compile(self, grammar: str) -> GrammarConstraint:
        """Raises `EngineError` with llguidance's message when the grammar is wrong."""
        from llguidance import LLMatcher

        matcher = LLMatcher(self._vocabulary(), grammar, log_level=0)
        if matcher.is_error():
            raise EngineError(f"the grammar does not compile: {matcher.get_error()}")
        return GrammarConstraint(matcher, self._num_tokens)

    def json_value(self, schema: Mapping[str, object]) -> GrammarConstraint:
        """A constraint to one JSON value of this schema (JSON Schema), as far as llguidance can
        express it: what it has no rule for, such as `uniqueItems`, does not constrain. Raises
        `EngineError` for a schema it cannot read at all."""
        lenient = {"x-guidance": {**_SPACING["x-guidance"], "lenient": True}}
        return self.compile(f"start: %json {json.dumps({**schema, **lenient})}")

    def tool_calls(
        self, schemas: Iterable[tuple[str, dict[str, Any]]]
    ) -> ToolCallConstraint | None:
        """A constraint for tools of these names and argument schemas (JSON Schema). A schema that
        llguidance cannot express leaves its arguments at "some object". None where the vocabulary
        has no token for `<tool_call>`."""
        special = self._encoding._special_tokens
        if "<tool_call>" not in special or "</tool_call>" not in special:
            return None
        rules = [
            rule
            for index, (name, schema) in enumerate(schemas)
            for rule in _call_rules(index, name, self._expressible(schema))
        ]
        calls = " | ".join(f"call_{index}" for index in range(len(rules) // 2))
        grammar = "\n".join([f"start: ({calls}) </tool_call>", *rules])
        return ToolCallConstraint(self, grammar, special["<tool_call>"])

    def _expressible(self, schema: dict[str, Any]) -> dict[str, Any]:
        from llguidance import LLMatcher

        spaced = schema | _SPACING
        text = f"start: %json {json.dumps(spaced)}"
        if LLMatcher.validate_grammar(text, self._vocabulary()):
            return {"type": "object"} | _SPACING
        return spaced

    def _vocabulary(self) -> LLTokenizer:
        from llguidance.tiktoken import lltokenizer_from_encoding

        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = lltokenizer_from_encoding(
                    self._encoding, n_vocab=self._num_tokens, eos_token=self._eos_ids
                )
            return self._tokenizer


# As the templates write calls; where any white space may stand, a weak model writes it for ever.
_SPACING = {
    "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
}


def _call_rules(index: int, name: str, schema: dict[str, Any]) -> tuple[str, str]:
    opening = json.dumps('\n{"name": ' + json.dumps(name) + ', "arguments": ')
    return (
        f'call_{index}: {opening} arguments_{index} "}}\\n"',
        f"arguments_{index}: %json {json.dumps(schema)}",
    )
