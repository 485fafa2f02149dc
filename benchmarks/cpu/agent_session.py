"""A session as a coding agent has it: a long fixed prefix, then tool results and answers in turn.

The prefix is the agent's own system prompt with its tools and source files to work on. Each turn
brings a function that a tool has read and asks to have it written again with a small change, so
that an answer copies a good part of it. The files are modules of Python's standard library.
"""

from __future__ import annotations

import ast
import inspect
import shlex
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.cpu.worker import Worker
from benchmarks.prompt_size import TEMPLATES, fixed_request
from qcode.engine.tokenizer import Tokenizer

PREFIX_TOKENS = 6144
NUM_TURNS = 8
TURN_TOKENS = 300
ANSWER_TOKENS = 120
CONTEXT_WINDOW = 10_240

_READ_FILES = (textwrap, shlex)
_TASKS = (
    "Add type annotations to this function and change nothing else.",
    "Rename the first parameter of this function and change nothing else.",
    "Write this function again with a shorter docstring and change nothing else.",
    "Add a comment before each return of this function and change nothing else.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSession:
    """Token ids: what every request begins with, what each turn adds to it, and what stands
    between an answer and the next turn."""

    prefix: tuple[int, ...]
    turns: tuple[tuple[int, ...], ...]
    answer_end: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTimes:
    """`total_s` and `first_token_s` count from the start of the process, which is still open."""

    worker: Worker
    total_s: float
    first_token_s: float
    answers: tuple[tuple[int, ...], ...]


def run_session(session: AgentSession, start: Callable[[], Worker]) -> SessionTimes:
    """The whole session in a new process, which `start` begins."""
    worker = start()
    prompt = list(session.prefix)
    answers: list[tuple[int, ...]] = []
    first_token_s = 0.0
    for turn in session.turns:
        prompt += turn
        asked_s = time.perf_counter() - worker.started_s
        timing = worker.answer(prompt, ANSWER_TOKENS)
        if not answers:
            first_token_s = asked_s + timing.prefill_s
        answers.append(timing.token_ids)
        prompt += [*timing.token_ids, *session.answer_end]
    total_s = time.perf_counter() - worker.started_s
    return SessionTimes(
        worker=worker, total_s=total_s, first_token_s=first_token_s, answers=tuple(answers)
    )


def agent_session(tokenizer: Tokenizer) -> AgentSession:
    """The session in the vocabulary of a model."""
    return AgentSession(
        prefix=tuple(_prefix(tokenizer)),
        turns=tuple(
            tuple(ids) for ids, _ in zip(_turns(tokenizer), range(NUM_TURNS), strict=False)
        ),
        answer_end=tuple(_markup(tokenizer, "<|im_end|>\n")),
    )


def _prefix(tokenizer: Tokenizer) -> list[int]:
    system = tokenizer.encode_prompt(TEMPLATES["hermes"].render(fixed_request("lean")))
    opening = _markup(tokenizer, "<|im_start|>assistant\n")
    assert system[-len(opening) :] == opening
    del system[-len(opening) :]
    files = "\n\n".join(
        f"# {module.__name__}.py\n\n{inspect.getsource(module)}" for module in _READ_FILES
    )
    head = _markup(tokenizer, "<|im_start|>user\n")
    end = _markup(tokenizer, "<|im_end|>\n<|im_start|>assistant\n")
    room = PREFIX_TOKENS - len(system) - len(head) - len(end)
    body = tokenizer.encode(f"We are going to work on these files.\n\n{files}")
    return [*system, *head, *_exactly(body, room), *end]


def _turns(tokenizer: Tokenizer) -> Iterator[list[int]]:
    head = _markup(tokenizer, "<|im_start|>user\n<tool_response>\n")
    for number, source in enumerate(_functions()):
        task = _TASKS[number % len(_TASKS)]
        end = _markup(tokenizer, f"\n</tool_response>\n{task}<|im_end|>\n<|im_start|>assistant\n")
        room = TURN_TOKENS - len(head) - len(end)
        yield [*head, *_exactly(tokenizer.encode(source), room), *end]


def _functions() -> Iterator[str]:
    """Functions of the files, one after another, and around again."""
    functions = []
    for module in _READ_FILES:
        source = inspect.getsource(module)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                functions.append(textwrap.dedent(ast.get_source_segment(source, node) or ""))
    functions.sort(key=len, reverse=True)
    while True:
        yield from functions


def _exactly(ids: Sequence[int], count: int) -> list[int]:
    """So many ids: the beginning, or the whole again and again."""
    return [ids[i % len(ids)] for i in range(count)]


def _markup(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode_prompt([(text, True)])
