"""`--json-schema`: the closing answer is JSON that obeys a schema, or the turn has failed.

The model works as always, and its system prompt says how the answer must look. An answer that does
not obey is asked for once more, with what is wrong about it: by then the schema goes along, so that
the bundled engine samples under it and a server that knows `response_format` does the same.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qcode.agent.turn import TurnContext, TurnOutcome, TurnStrategy
from qcode.agent.verification import Verified
from qcode.protocol.backends import AnswerShape
from qcode.protocol.chunks import Completed
from qcode.protocol.errors import AnswerNotInForm, BadInput, InvalidResponse
from qcode.protocol.messages import TextBlock, UserMessage
from qcode.sandbox.terminal_text import printable

_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)
_MAX_PROBLEM = 500


class AnswerForm:
    """A JSON Schema, of the draft it names or the newest. References lead nowhere outside it."""

    def __init__(self, schema: Mapping[str, object]) -> None:
        """Raises `BadInput` for what is no schema."""
        from jsonschema import Draft202012Validator, SchemaError
        from jsonschema.validators import validator_for
        from referencing import Registry

        self.schema = dict(schema)
        kind = validator_for(self.schema, default=Draft202012Validator)
        try:
            kind.check_schema(self.schema)
        except SchemaError as error:
            place = "/".join(str(part) for part in error.absolute_path) or "its root"
            raise BadInput(f"This is no JSON Schema: {_cut(error.message)} (at {place})") from error
        # An own registry, empty: the default one would fetch what a reference names.
        self._validator = kind(self.schema, registry=Registry())

    @property
    def instruction(self) -> str:
        """For the system prompt."""
        return (
            "# The form of your last message\n"
            "When the work is done, your last message is one JSON value and nothing else: no "
            f"words before or after it, no code fence. It obeys this JSON Schema:\n\n{self._text}"
        )

    def correction(self, problem: str) -> str:
        return (
            f"Your answer does not have the form that was asked for: {problem}\n"
            "Answer again with one JSON value that obeys this JSON Schema, and nothing else:\n\n"
            f"{self._text}"
        )

    def read(self, text: str) -> object:
        """The value of an answer: all of the text, or the one fenced block in it. Raises
        `AnswerNotInForm` where it does not obey."""
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        value = _json(text)
        try:
            error = best_match(self._validator.iter_errors(value))
        except Unresolvable as unknown:
            raise BadInput(f"The JSON Schema refers to what it does not hold: {unknown}") from None
        if error is not None:
            raise AnswerNotInForm(f"at {error.json_path}: {_cut(error.message)}")
        return value

    @property
    def _text(self) -> str:
        return json.dumps(self.schema, ensure_ascii=False)


class InForm:
    """A strategy whose completion counts only with an answer in the form. The outcome's text is
    then exactly the JSON. Raises `AnswerNotInForm` where one correction did not help."""

    def __init__(self, strategy: TurnStrategy, form: AnswerForm) -> None:
        self._strategy = strategy
        self._form = form

    @property
    def exit_code(self) -> int | None:
        """Of the verify command's last run, if there is one and it ran."""
        return self._strategy.exit_code if isinstance(self._strategy, Verified) else None

    async def run(self, prompt: str, turn: TurnContext) -> TurnOutcome:
        if turn.specs:
            outcome = await self._strategy.run(prompt, turn)
        else:  # nothing to do but to answer: the first answer can have the form already
            outcome = TurnOutcome(reason="completed", text=await self._answer(turn))
        if outcome.reason != "completed":
            return outcome
        try:
            value = self._form.read(outcome.text)
        except AnswerNotInForm as problem:
            turn.add(UserMessage(content=self._form.correction(problem.message)))
            value = self._final(await self._answer(turn))
        return replace(outcome, text=_written(value))

    def _final(self, text: str) -> object:
        try:
            return self._form.read(text)
        except AnswerNotInForm as problem:
            raise AnswerNotInForm(
                f"The answer does not obey the JSON Schema: {problem.message}",
                "It was asked for twice; a stronger model or a simpler schema may help.",
            ) from problem

    async def _answer(self, turn: TurnContext) -> str:
        """One answer under the schema, put into history as the text it is."""
        await turn.shorten()
        message = (await self._ask(turn)).message
        # JSON can look like a call to the parser of calls; the text as it was written does not.
        text = message.text if message.text.strip() or message.raw is None else message.raw
        turn.add(replace(message, blocks=(TextBlock(text=text),), stop_reason="end"))
        return text

    async def _ask(self, turn: TurnContext) -> Completed:
        request = turn.request()
        if not turn.backend.model.constrains:
            # Offered tools would be called instead, and few servers take both. The engine keeps
            # them, and with them the prompt it has read already.
            request = replace(request, tools=())
        shaped = replace(request, answer=AnswerShape(schema=self._form.schema))
        try:
            return await turn.stream(shaped)
        except InvalidResponse:
            if turn.backend.model.constrains:
                raise
            # A server that knows no such field: what it is told in words must do.
            return await turn.stream(request)


def _written(value: object) -> str:
    """JSON that stays what it is on its way through the filter of foreign text."""
    text = json.dumps(value, ensure_ascii=False)
    return text if printable(text, max_line=sys.maxsize) == text else json.dumps(value)


def _json(text: str) -> Any:
    candidates = [text.strip(), *(block.strip() for block in _FENCED.findall(text))]
    if len(candidates) > 2:
        candidates = candidates[:1]
    for candidate in candidates:
        try:
            return json.loads(candidate, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            continue
    raise AnswerNotInForm(f"it is not JSON but begins {text.strip()[:80]!r}.")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_PROBLEM else f"{text[:_MAX_PROBLEM]}…"
