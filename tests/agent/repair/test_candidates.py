"""The search for a fix, against a model whose answers are written here."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qcode.agent.repair.candidates import Candidate, CandidateSearch
from qcode.agent.repair.definitions import find_definitions
from qcode.agent.repair.prompt import RepairPrompt
from qcode.protocol.backends import ChatRequest, ModelInfo
from qcode.protocol.chunks import Completed, TokenChoice
from qcode.protocol.messages import AssistantMessage, TextBlock

pytestmark = pytest.mark.anyio

FILE = "LIMIT = 3\n\n\ndef double(x):\n    return x + 2\n\n\ndef half(x):\n    return x / 2\n"
FILES = {"maths.py": FILE}
COPY = "```python\ndef double(x):\n    return x + 2\n```"
SMALL = ModelInfo(name="small", context_window=None, strength="small", constrains=True)
REMOTE = ModelInfo(name="remote", context_window=None, strength="small")


def prompt(*names: str) -> RepairPrompt:
    found = {item.name: item for item in find_definitions("maths.py", FILE, "python")}
    numbered = tuple(enumerate(FILE.splitlines(), start=1))
    return RepairPrompt(
        text="fix", shown=tuple(found[name] for name in names), lines={"maths.py": numbered}
    )


def token(text: str, runner_up: str = "", likely: float = 0.0, *, number: int = 0) -> TokenChoice:
    return TokenChoice(
        token_id=number,
        text=text,
        probability=1.0 - likely,
        runner_up_id=1000 + number,
        runner_up_text=runner_up,
        runner_up_probability=likely,
    )


def answer(text: str, *trace: TokenChoice) -> Completed:
    message = AssistantMessage(blocks=(TextBlock(text=text),), stop_reason="end", model="small")
    return Completed(message=message, trace=trace)


class Model:
    """Answers by a function of the request, and keeps the requests."""

    def __init__(self, reply: Callable[[ChatRequest], Completed]) -> None:
        self._reply = reply
        self.requests: list[ChatRequest] = []

    async def ask(self, request: ChatRequest) -> Completed:
        self.requests.append(request)
        return self._reply(request)


async def search(
    model: Model,
    *names: str,
    info: ModelInfo = SMALL,
    limit: int = 20,
    test: str = "assert double(5) == 10",
) -> tuple[list[Candidate], CandidateSearch]:
    found = CandidateSearch(
        prompt=prompt(*names), files=FILES, test_source=test, model=info, ask=model.ask
    )
    candidates: list[Candidate] = []
    async for candidate in found.candidates():
        candidates.append(candidate)
        if len(candidates) >= limit:
            break
    return candidates, found


def prefix(request: ChatRequest) -> tuple[int, ...]:
    assert request.answer is not None
    return request.answer.prefix_ids


def is_greedy(request: ChatRequest) -> bool:
    return request.sampling.temperature == 0 and not prefix(request)


async def test_branches_follow_the_runner_ups_probability() -> None:
    trace = (
        token("```python\n", number=0),
        token("def double(", number=1),
        token("x):\n    return x ", number=2),
        token("+", "*", 0.4, number=3),
        token(" 2", " 3", 0.45, number=4),
        token("\n```", number=5),
    )

    def reply(request: ChatRequest) -> Completed:
        match prefix(request):
            case (0, 1, 2, 1003):
                return answer(COPY.replace("+ 2", "* 2"))
            case (0, 1, 2, 3, 1004):
                return answer(COPY.replace("+ 2", "+ 3"))
            case _:
                return answer(COPY, *(trace if is_greedy(request) else ()))

    model = Model(reply)
    candidates, found = await search(model, "double", limit=2)
    assert [(item.origin, item.proposal.new) for item in candidates] == [
        ("branch", "def double(x):\n    return x + 3\n"),
        ("branch", "def double(x):\n    return x * 2\n"),
    ]
    assert found.outcomes["no change"] == 1
    assert len(model.requests) == 3  # the copy of the fault cost one answer and no test run


async def test_a_branch_of_a_branch_keeps_both_choices() -> None:
    start = (token("```python\n", number=0), token("def double(x):\n    return x ", number=1))

    def reply(request: ChatRequest) -> Completed:
        match prefix(request):
            case ():
                return answer(COPY, *start, token("+", "*", 0.9, number=2))
            case (0, 1, 1002):
                return answer(COPY.replace("+ 2", "* 3"), token(" 3", " 2", 0.9, number=3))
            case (0, 1, 1002, 1003):
                return answer(COPY.replace("+ 2", "* 2"))
            case other:
                raise AssertionError(other)

    candidates, _ = await search(Model(reply), "double", limit=2)
    assert [item.proposal.new.split("return ")[1] for item in candidates] == ["x * 3\n", "x * 2\n"]


async def test_no_branches_in_the_header_in_layout_or_in_comments() -> None:
    trace = (
        token("```python\ndef", "LIMIT", 0.5, number=0),
        token(" double(", " half(", 0.5, number=1),
        token("x):\n", "x):\n\n", 0.5, number=2),
        token("    return x + 2", number=3),
        token(" ", "  # ", 0.5, number=4),
        token(" # add", " # sum", 0.5, number=5),
        token(" two", " three", 0.5, number=6),
        token("\n```", "\n", 0.5, number=7),
    )

    def reply(request: ChatRequest) -> Completed:
        assert request.answer is not None
        whole = "SEARCH" not in (request.answer.grammar or "")
        return answer(COPY, *(trace if whole and is_greedy(request) else ()))

    model = Model(reply)
    assert (await search(model, "double"))[0] == []
    assert all(prefix(request) == () for request in model.requests)


async def test_the_same_program_is_given_once() -> None:
    model = Model(lambda request: answer(COPY.replace("+ 2", "* 2")))
    candidates, found = await search(model, "double")
    assert len(candidates) == 1
    assert candidates[0].origin == "greedy"
    assert found.outcomes["repeated"] > 1


async def test_unusable_answers_are_passed_over() -> None:
    def reply(request: ChatRequest) -> Completed:
        if is_greedy(request):
            return answer("```python\ndef double(x):\n    return (x\n```")
        return answer("I do not know.")

    candidates, found = await search(Model(reply), "double")
    assert candidates == []
    assert found.outcomes["syntax error"] >= 1
    assert found.outcomes["unusable"] >= 1


async def test_special_cases_come_last() -> None:
    cheat = "```python\ndef double(x):\n    return 10\n```"

    def reply(request: ChatRequest) -> Completed:
        return answer(cheat if is_greedy(request) else COPY.replace("+ 2", "* 2"))

    candidates, _ = await search(Model(reply), "double")
    assert [item.proposal.new.split("return ")[1] for item in candidates] == ["x * 2\n", "10\n"]


async def test_samples_differ_by_seed_and_every_form_and_target_gets_its_turn() -> None:
    model = Model(lambda request: answer("nothing"))
    await search(model, "double", "half", "LIMIT")
    greedy = [request for request in model.requests if is_greedy(request)]
    seeds = [r.sampling.seed for r in model.requests if r.sampling.seed is not None]
    assert len(seeds) == len(set(seeds)) > 3
    grammars = [r.answer.grammar for r in greedy if r.answer is not None and r.answer.grammar]
    assert len(grammars) == len(set(grammars)) == 5  # all, each one, search/replace
    assert '"def half("' in grammars[0]
    assert '"LIMIT ="' in grammars[0]
    assert any("SEARCH" in grammar for grammar in grammars)


async def test_one_prompt_for_all_candidates() -> None:
    model = Model(lambda request: answer("nothing"))
    await search(model, "double", "half")
    contents = {
        message.content for r in model.requests for message in r.messages if message.role == "user"
    }
    assert len(contents) == 2  # one ending for each form
    assert all(content.startswith("fix\nFind the bug") for content in contents)
    assert len({request.system for request in model.requests}) == 1


async def test_a_model_that_does_not_constrain_is_asked_plainly() -> None:
    text = "The fix:\n```python\ndef double(x):\n    return x * 2\n```\nDone."
    model = Model(lambda request: answer(text))
    candidates, _ = await search(model, "double", info=REMOTE)
    assert [item.proposal.new for item in candidates] == ["def double(x):\n    return x * 2\n"]
    assert all(request.answer is None for request in model.requests)


async def test_a_long_function_is_changed_by_search_and_replace() -> None:
    body = "".join(f"    x += {number}\n" for number in range(60))
    text = f"def long(x):\n{body}    return x\n"  # no blocks in it
    (definition,) = find_definitions("maths.py", text, "python")
    long = RepairPrompt(
        text="fix",
        shown=(definition,),
        lines={"maths.py": tuple(enumerate(text.splitlines(), start=1))},
    )
    block = "<<<<<<< SEARCH\n    x += 59\n=======\n    x += 60\n>>>>>>> REPLACE"
    model = Model(lambda request: answer(block))
    found = CandidateSearch(
        prompt=long, files={"maths.py": text}, test_source="", model=SMALL, ask=model.ask
    )
    candidates = [candidate async for candidate in found.candidates()]
    assert [item.proposal.after for item in candidates] == [text.replace("+= 59", "+= 60")]


async def test_the_blocks_of_a_long_function_are_targets_those_of_the_test_first() -> None:
    filler = "".join(f"    x += {number}\n" for number in range(60))
    loop = "    for a in x:\n        x += a\n"
    choice = '    if name == "right":\n        x = 1\n    else:\n        x = 2\n'
    text = f"def long(x, name):\n{filler}{loop}{choice}    return x\n"
    (definition,) = find_definitions("maths.py", text, "python")
    shown = RepairPrompt(
        text="fix",
        shown=(definition,),
        lines={"maths.py": tuple(enumerate(text.splitlines(), start=1))},
    )
    model = Model(lambda request: answer(f"```python\n{choice.replace('x = 1', 'x = 3')}```"))
    found = CandidateSearch(
        prompt=shown,
        files={"maths.py": text},
        test_source='assert long(1, "right") == 3',
        model=SMALL,
        ask=model.ask,
    )
    candidates = [candidate async for candidate in found.candidates()]
    assert candidates[0].proposal.after == text.replace("x = 1\n", "x = 3\n")
    assert candidates[0].proposal.target == "long, line 64"
    assert model.requests[0].answer is not None
    grammar = model.requests[0].answer.grammar or ""
    assert grammar.index('"    if name') < grammar.index('"    for a')


async def test_a_varied_search_samples_from_the_first_answer_on() -> None:
    model = Model(lambda request: answer(COPY))
    found = CandidateSearch(
        prompt=prompt("double"),
        files=FILES,
        test_source="",
        model=SMALL,
        ask=model.ask,
        variation=100,
    )
    assert [candidate async for candidate in found.candidates()] == []
    seeds = [request.sampling.seed for request in model.requests]
    assert seeds[0] == 100
    assert None not in seeds
    assert all(request.sampling.temperature for request in model.requests)
