"""The search for a fix: answers of the model in order of promise, all on one cached prompt.

A best-first search. The greedy answer comes first. Wherever it was unsure, the runner-up token
makes a branch: the tokens before it are kept and the rest is generated again, so a branch costs
its tail only. A model that copies a fault is most unsure exactly there. Fixed entries in the same
queue (another answer format, single targets, samples) come up when no branch is more promising.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Literal

from qcode.agent.repair.answers import (
    Proposal,
    changes_nothing,
    fingerprint,
    is_well_formed,
    read_definition,
    read_search_replace,
)
from qcode.agent.repair.blocks import blocks_of
from qcode.agent.repair.definitions import Definition
from qcode.agent.repair.grammars import definition_grammar, search_replace_grammar
from qcode.agent.repair.overfitting import special_cases
from qcode.agent.repair.project_files import language_of
from qcode.agent.repair.prompt import SYSTEM, RepairPrompt
from qcode.protocol.backends import AnswerShape, ChatRequest, ModelInfo
from qcode.protocol.chunks import Completed, TokenChoice
from qcode.protocol.messages import UserMessage
from qcode.protocol.sampling import SamplingParams
from qcode.protocol.values import dataclass

MAX_FUNCTION_LINES = 40  # of longer ones the blocks are targets
MAX_TARGETS = 4
MIN_RUNNER_UP = 0.02  # less likely tokens are not worth a test run
SAMPLE_TEMPERATURE = 0.8
MAX_SAMPLES = 8

# The promise of what is not a branch, on the scale of a runner-up's probability.
GREEDY = 1.0
SHORT_TARGET = 0.30  # an assignment or a block costs a few tokens
SINGLE_TARGET = 0.15
SAMPLE = 0.12
OTHER_FORM = 0.10
LATER = 0.85  # factor for each further one of a kind

Form = Literal["definition", "search_replace", "plain"]
Ask = Callable[[ChatRequest], Awaitable[Completed]]
Outcome = Literal["candidate", "no change", "repeated", "syntax error", "unusable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request to come: the answer's form, what it may aim at, and how it begins."""

    form: Form
    targets: tuple[Definition, ...]
    prefix_ids: tuple[int, ...] = ()
    prefix_text: str = ""
    seed: int | None = None

    @property
    def is_broad(self) -> bool:
        """The greedy answer that may aim at any of several definitions."""
        return self.form == "definition" and self.origin == "greedy" and len(self.targets) > 1

    @property
    def origin(self) -> str:
        if self.seed is not None:
            return "sample"
        return "branch" if self.prefix_ids else "greedy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    proposal: Proposal
    origin: str


class CandidateSearch:
    """`outcomes` counts what became of the answers so far; `on_answer` is told of each one, with
    the attempt's origin."""

    def __init__(
        self,
        *,
        prompt: RepairPrompt,
        files: dict[str, str],
        test_source: str,
        model: ModelInfo,
        ask: Ask,
        on_answer: Callable[[str, Outcome], None] = lambda origin, outcome: None,
        variation: int | None = None,
    ) -> None:
        """`variation` is a seed that leads the search another way than without one: its first
        answers are sampled too."""
        self.outcomes: Counter[Outcome] = Counter()
        self._on_answer = on_answer
        self._prompt = prompt
        self._files = files
        self._test_source = test_source
        self._model = model
        self._variation = variation
        self._ask = ask
        self._queue: list[tuple[float, int, Attempt]] = []
        self._num_pushed = 0
        self._seen: set[tuple[str, str]] = set()

    async def candidates(self) -> AsyncGenerator[Candidate, None]:
        """Well-formed, distinct changes; those that special-case the test's values come last.
        Raises what `ask` raises."""
        self._plan()
        doubtful: list[Candidate] = []
        while self._queue:
            negative_promise, _, attempt = heapq.heappop(self._queue)
            completed = await self._ask(self._request(attempt))
            self._branch(-negative_promise, attempt, completed.trace)
            proposal = self._read(attempt, completed.message.text)
            outcome = self._judge(proposal)
            self.outcomes[outcome] += 1
            self._on_answer(attempt.origin, outcome)
            if attempt.is_broad:
                self._aim_elsewhere(attempt, proposal)
            if proposal is None or outcome != "candidate":
                continue
            candidate = Candidate(proposal=proposal, origin=attempt.origin)
            if special_cases(proposal, self._test_source):
                doubtful.append(candidate)
            else:
                yield candidate
        for candidate in doubtful:
            yield candidate

    def _push(self, promise: float, attempt: Attempt) -> None:
        self._num_pushed += 1  # equal promises keep their order
        heapq.heappush(self._queue, (-promise, self._num_pushed, attempt))

    def _plan(self) -> None:
        forms = self._forms()
        for number, (form, targets) in enumerate(forms):
            self._push(GREEDY if number == 0 else OTHER_FORM, Attempt(form=form, targets=targets))
        for seed in range(MAX_SAMPLES):
            form, targets = forms[-1 if seed % 3 == 2 else 0]
            self._push(SAMPLE * LATER**seed, Attempt(form=form, targets=targets, seed=seed))

    def _aim_elsewhere(self, attempt: Attempt, proposal: Proposal | None) -> None:
        """The model's own choice among the targets is known now; the others get their turn."""
        chosen = proposal.target if proposal else ""
        others = [item for item in attempt.targets if item.qualified != chosen]
        for number, target in enumerate(others):
            promise = SINGLE_TARGET if target.kind == "function" else SHORT_TARGET
            self._push(promise * LATER**number, Attempt(form=attempt.form, targets=(target,)))

    def _forms(self) -> list[tuple[Form, tuple[Definition, ...]]]:
        targets = rewritable(self._prompt.shown, frozenset(_WORD.findall(self._test_source)))
        if not self._model.constrains:
            return [("plain", targets or self._prompt.shown)]
        forms: list[tuple[Form, tuple[Definition, ...]]] = []
        if targets:
            forms.append(("definition", targets))
        forms.append(("search_replace", ()))
        return forms

    def _request(self, attempt: Attempt) -> ChatRequest:
        greedy = attempt.seed is None
        longest = max((len(item.text) for item in attempt.targets), default=200)
        answer = None
        if self._model.constrains:
            answer = AnswerShape(
                grammar=search_replace_grammar(self._prompt.lines)
                if attempt.form == "search_replace"
                else definition_grammar(attempt.targets),
                prefix_ids=attempt.prefix_ids,
                trace=greedy,
            )
        return ChatRequest(
            system=SYSTEM,
            messages=(UserMessage(content=f"{self._prompt.text}\n{_instruction(attempt)}"),),
            sampling=replace(
                self._sampling(attempt), repetition_penalty=1.0, max_tokens=80 + longest // 2
            ),
            answer=answer,
        )

    def _sampling(self, attempt: Attempt) -> SamplingParams:
        if self._variation is not None:
            seed = self._variation + (0 if attempt.seed is None else attempt.seed + 1)
        elif attempt.seed is not None:
            seed = attempt.seed
        else:
            return SamplingParams(temperature=0.0, top_p=1.0)
        return SamplingParams(temperature=SAMPLE_TEMPERATURE, top_p=0.95, seed=seed)

    def _read(self, attempt: Attempt, text: str) -> Proposal | None:
        if attempt.form == "search_replace":
            return read_search_replace(text, self._files)
        return read_definition(text, attempt.targets or self._prompt.shown, self._files)

    def _judge(self, proposal: Proposal | None) -> Outcome:
        if proposal is None:
            return "unusable"
        if not is_well_formed(proposal):
            return "syntax error"
        if changes_nothing(proposal):
            return "no change"
        mark = fingerprint(proposal)
        if mark in self._seen:
            return "repeated"
        self._seen.add(mark)
        return "candidate"

    def _branch(self, promise: float, attempt: Attempt, trace: Sequence[TokenChoice]) -> None:
        ids, written = attempt.prefix_ids, attempt.prefix_text
        for choice in trace:
            if worth_branching(choice, written, attempt):
                branch = Attempt(
                    form=attempt.form,
                    targets=attempt.targets,
                    prefix_ids=(*ids, choice.runner_up_id),
                    prefix_text=written + choice.runner_up_text,
                )
                self._push(min(promise, 1.0) * choice.runner_up_probability, branch)
            ids = (*ids, choice.token_id)
            written += choice.text


def _instruction(attempt: Attempt) -> str:
    """Comes last, so that the forms share the cached prompt before it."""
    if attempt.form == "search_replace":
        return "Find the bug. Answer with one SEARCH/REPLACE block that changes the wrong line."
    if any(item.kind == "block" for item in attempt.targets):
        return "Find the bug. Answer with the corrected statement only, in one code block."
    paths = list(dict.fromkeys(item.path for item in attempt.targets))
    where = f" in {paths[0]}" if len(paths) == 1 else ""
    return f"Find the bug{where}. Answer with the corrected function only, in one code block."


_WORD = re.compile(r"\w+")
_COMMENT = re.compile(r"(?:^|\s)(?:#|//)")


def worth_branching(choice: TokenChoice, written: str, attempt: Attempt) -> bool:
    """Not where the runner-up is unlikely or differs in layout only, nor in the header (targets
    have attempts of their own), in a comment or in a docstring."""
    if choice.runner_up_probability < MIN_RUNNER_UP or not choice.runner_up_text.strip():
        return False
    if choice.runner_up_text.strip() == choice.text.strip():
        return False
    if _COMMENT.match(choice.runner_up_text.strip()):
        return False
    line = written.rpartition("\n")[2]
    if attempt.form == "search_replace":
        return not _COMMENT.search(line)
    if not any(item.header in written for item in attempt.targets):
        return False
    return not _COMMENT.search(line) and written.count('"""') % 2 == 0


def rewritable(
    shown: Sequence[Definition], evidence: frozenset[str] = frozenset()
) -> tuple[Definition, ...]:
    """Targets short enough to be written whole: definitions, and the blocks of long functions; of
    those with the same header the first."""
    distinct: dict[str, Definition] = {}
    for item in shown:
        short = item.num_lines <= MAX_FUNCTION_LINES
        parts = (item,) if short else blocks_of(item, evidence)
        for part in parts if language_of(item.path) else ():
            distinct.setdefault(part.header, part)
    return tuple(distinct.values())[:MAX_TARGETS]
