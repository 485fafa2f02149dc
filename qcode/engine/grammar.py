"""Constrained decoding: which tokens may come next.

Grammars are Lark grammars as llguidance reads them. llguidance runs an Earley parser over a
lexer of derivatives and walks the vocabulary as a trie, so a mask costs well under a millisecond
except inside long free strings.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from qcode.engine.chat.call_opening import CallOpening, OpeningWatch
from qcode.engine.tool_grammar import JSON_STYLE, CallFormat, call_grammar
from qcode.protocol.errors import EngineError

if TYPE_CHECKING:
    import tiktoken
    from llguidance import LLMatcher, LLTokenizer

logger = logging.getLogger(__name__)

_MAX_KEPT_GRAMMARS = 16


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

    def forced(self) -> Sequence[int]:
        """The tokens of the text that must come next, as that text is encoded: none where the text
        may go on in more than one way, or where what follows may be part of its last token."""
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

    def forced(self) -> Sequence[int]:
        return () if self.is_complete else self._matcher.compute_ff_tokens()

    @property
    def is_complete(self) -> bool:
        return bool(self._matcher.is_stopped())

    @property
    def may_end(self) -> bool:
        """What was consumed is a whole text of the grammar, though it might go on."""
        return self.is_complete or bool(self._matcher.is_accepting())


class ToolCallConstraint:
    """Free text, but every call the model opens is a text of one grammar: from the token
    `<tool_call>` to the token `</tool_call>`, or as long as a call without that token lasts."""

    def __init__(
        self,
        begin_call: Callable[[], GrammarConstraint],
        opening_token: int,
        *,
        watch: OpeningWatch,
        begin_bare_call: Callable[[CallOpening], GrammarConstraint | None],
        piece: Callable[[int], bytes],
    ) -> None:
        """`piece` is the text of a token."""
        self._begin_call = begin_call
        self._opening_token = opening_token
        self._watch = watch
        self._begin_bare_call = begin_bare_call
        self._piece = piece
        self._call: GrammarConstraint | None = None

    def allowed(self) -> Tensor | None:
        return self._call.allowed() if self._call is not None else None

    def forced(self) -> Sequence[int]:
        return self._call.forced() if self._call is not None else ()

    def consume(self, token: int) -> None:
        if self._call is not None:
            self._call.consume(token)
            if self._call.may_end:
                self._call = None
                self._watch.call_ended()
        elif token == self._opening_token:
            self._call = self._begin_call()
        elif (opening := self._watch.feed(self._piece(token))) is not None:
            self._call = self._begin_bare_call(opening)

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
        self._call_starts: dict[str, LLMatcher | None] = {}

    def prepare(self) -> None:
        threading.Thread(target=self._vocabulary, name="grammar vocabulary", daemon=True).start()

    def compile(self, grammar: str) -> GrammarConstraint:
        """Raises `EngineError` with llguidance's message when the grammar is wrong."""
        return GrammarConstraint(self._matcher(grammar), self._num_tokens)

    def _matcher(self, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._vocabulary(), grammar, log_level=0)
        if matcher.is_error():
            raise EngineError(f"the grammar does not compile: {matcher.get_error()}")
        return matcher

    def json_value(self, schema: Mapping[str, object]) -> GrammarConstraint:
        """A constraint to one JSON value of this schema (JSON Schema), as far as llguidance can
        express it: what it has no rule for, such as `uniqueItems`, does not constrain. Raises
        `EngineError` for a schema it cannot read at all."""
        styled = {**schema, "x-guidance": JSON_STYLE}
        return self.compile(f"start: %json {json.dumps(styled)}")

    def tool_calls(
        self,
        tools: Iterable[tuple[str, Mapping[str, object]]],
        form: CallFormat,
        *,
        in_reasoning: bool = False,
    ) -> ToolCallConstraint | None:
        """A constraint for tools of these names and argument schemas (JSON Schema), called in
        this form; without the token `<tool_call>`, in either. A value whose schema llguidance
        cannot express is left free. None where the vocabulary has no token for `<tool_call>`, and
        for tools that cannot be expressed at all. `in_reasoning`: the answer begins with thinking.

        The grammar of a set of tools is made once; later answers get copies of its start.
        """
        special = self._encoding._special_tokens
        if "<tool_call>" not in special or "</tool_call>" not in special:
            return None
        offered = list(tools)
        start = self._call_start(offered, form)
        if start is None:
            return None
        return ToolCallConstraint(
            lambda: GrammarConstraint(start.deep_copy(), self._num_tokens),
            special["<tool_call>"],
            watch=OpeningWatch((name for name, _ in offered), in_reasoning=in_reasoning),
            begin_bare_call=lambda opening: self._bare_call(offered, opening),
            piece=self._piece,
        )

    def _bare_call(
        self, tools: Sequence[tuple[str, Mapping[str, object]]], opening: CallOpening
    ) -> GrammarConstraint | None:
        """None where what is written already departs from the grammar: then it stays free."""
        start = self._call_start(tools, opening.form, tagged=False)
        try:
            written = self._encoding.encode_ordinary(opening.written.decode())
        except UnicodeDecodeError:
            return None
        if start is None or start.validate_tokens(written) < len(written):
            return None
        matcher = start.deep_copy()
        matcher.consume_tokens(written)
        return GrammarConstraint(matcher, self._num_tokens)

    def _piece(self, token: int) -> bytes:
        try:
            return self._encoding.decode_single_token_bytes(token)
        except KeyError:  # a row of the network that no token has
            return b""

    def _call_start(
        self,
        tools: Sequence[tuple[str, Mapping[str, object]]],
        form: CallFormat,
        *,
        tagged: bool = True,
    ) -> LLMatcher | None:
        from llguidance import LLMatcher

        key = json.dumps([form, tagged, tools])
        with self._lock:
            if key in self._call_starts:
                return self._call_starts[key]
        grammar = call_grammar(
            tools, form, lambda text: not LLMatcher.validate_grammar(text), tagged=tagged
        )
        try:
            start = self._matcher(grammar)
        except EngineError as error:
            logger.warning("calls are not constrained: %s", error.message)
            start = None
        with self._lock:
            if len(self._call_starts) == _MAX_KEPT_GRAMMARS:
                del self._call_starts[next(iter(self._call_starts))]
            self._call_starts[key] = start
        return start

    def _vocabulary(self) -> LLTokenizer:
        from llguidance.tiktoken import lltokenizer_from_encoding

        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = lltokenizer_from_encoding(
                    self._encoding, n_vocab=self._num_tokens, eos_token=self._eos_ids
                )
            return self._tokenizer
