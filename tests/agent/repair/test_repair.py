"""The strategy with real tools on real projects; only the model's answers are written here."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from qcode.agent.agent import Agent
from qcode.agent.permissions import PermissionPolicy
from qcode.agent.repair.choice import repair_strategy
from qcode.agent.repair.goal import find_goal
from qcode.agent.repair.repair import RepairBudget
from qcode.agent.replay import Replay, Replayed
from qcode.agent.session import DraftEntry, Session, TrialEndedEntry
from qcode.agent.session_store import SessionStore, read_records
from qcode.agent.turn import TurnStrategy
from qcode.agent.verification import VerifyCommand
from qcode.protocol.backends import ChatRequest, ModelInfo
from qcode.protocol.chunks import Chunk, Completed
from qcode.protocol.errors import BackendUnavailable, TaskNotDone
from qcode.protocol.events import Event, ToolFinished, ToolStarted, TurnFinished
from qcode.protocol.messages import AssistantMessage, TextBlock, ToolMessage, Usage
from qcode.protocol.permissions import Access, Answer, Mode, PermissionRequest
from qcode.sandbox.workspace import LocalWorkspace
from qcode.tools.edit import Edit
from qcode.tools.file_records import FileRecords
from qcode.tools.read_file import ReadFile
from qcode.tools.run_shell_command import RunShellCommand

pytestmark = pytest.mark.anyio

CART = """\
def total(prices, percent=0):
    price = sum(prices)
    return price + price * percent / 100


def count(prices):
    return len(prices)
"""
TESTS = """\
import unittest

from cart import count, total


class CartTest(unittest.TestCase):
    def test_count(self):
        self.assertEqual(count([1, 2]), 2)

    def test_total(self):
        self.assertEqual(total([10, 10], percent=10), 18)
"""
COPY = """\
```python
def total(prices, percent=0):
    price = sum(prices)
    return price + price * percent / 100
```"""
FIX = COPY.replace("price +", "price -")
WRONG = COPY.replace("price +", "price *")
LOOP = "```python\ndef total(prices, percent=0):\n    while True:\n        pass\n```"
BREAKS_OTHERS = """\
```python
def total(prices, percent=0):
    global count
    count = None
    return 18
```"""
WITHOUT_IMPORT = """\
def total(prices, percent=0):
    return math.fsum(prices) * (100 - percent) / 100


def count(prices):
    return len(prices)
"""


class Model:
    """Answers in order, the last one again and again."""

    def __init__(self, *answers: str | Exception, constrains: bool = True, strength: str = "small"):
        self.model = ModelInfo(
            name="model",
            context_window=4096,
            strength="large" if strength == "large" else "small",
            constrains=constrains,
        )
        self._answers = list(answers)
        self.requests: list[ChatRequest] = []

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        text = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(text, Exception):
            raise text
        yield Completed(
            message=AssistantMessage(
                blocks=(TextBlock(text=text),),
                stop_reason="end",
                model="model",
                usage=Usage(input_tokens=100, output_tokens=10),
            )
        )

    async def aclose(self) -> None:
        pass


class Person:
    """Says yes to what `allows` says."""

    def __init__(self, allows: Callable[[PermissionRequest], bool]) -> None:
        self._allows = allows

    async def ask(self, request: PermissionRequest, reason: str) -> Answer:
        return Answer(allowed=self._allows(request))


def agent_for(
    root: Path,
    model: Model,
    *,
    allows: Callable[[PermissionRequest], bool] = lambda request: True,
    verify: str | None = None,
    budget: RepairBudget | None = None,
    session: Session | None = None,
) -> Agent:
    workspace, records = LocalWorkspace(root), FileRecords()
    return Agent(
        backend=model,
        tools=[
            ReadFile(workspace, records),
            Edit(workspace, records),
            RunShellCommand(workspace, environment=dict(os.environ)),
        ],
        policy=PermissionPolicy(mode=Mode.DEFAULT, workspace_root=root),
        approver=Person(allows),
        session=session or Session(session_id="test"),
        system_prompt="",
        verify=VerifyCommand(command=verify, max_attempts=1) if verify else None,
        strategy_for=lambda prompt: strategy(prompt, model.model, root, verify, budget),
    )


def strategy(
    prompt: str, model: ModelInfo, root: Path, verify: str | None, budget: RepairBudget | None
) -> TurnStrategy | None:
    goal = find_goal(prompt, verify=verify)
    if goal is None:
        return None
    return repair_strategy(goal, model=model, root=root, verify=verify, budget=budget)


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


async def play(
    agent: Agent, prompt: str = "fix the failing test"
) -> tuple[list[Event], TurnFinished]:
    events: list[Event] = []
    async with aclosing(agent.run(prompt)) as stream:
        async for event in stream:
            events.append(event)
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    return events, finished


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "cart.py").write_text(CART)
    (tmp_path / "test_cart.py").write_text(TESTS)
    return tmp_path


def commands(agent: Agent) -> list[str]:
    return [
        call.name
        for message in agent.conversation
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls
    ]


async def test_the_right_answer_is_kept_and_proved_by_the_whole_suite(project: Path) -> None:
    agent = agent_for(project, Model(COPY, COPY, WRONG, FIX))
    events, finished = await play(agent)
    assert finished.reason == "completed"
    assert "total in cart.py" in finished.text
    assert (project / "cart.py").read_text() == CART.replace("price +", "price -")
    ran = [event for event in events if isinstance(event, ToolFinished)]
    assert [(event.call.name, event.result.exit_code) for event in ran] == [
        ("run_shell_command", 1),  # shows the failure
        ("read_file", None),
        ("edit", None),
        ("run_shell_command", 1),  # the wrong answer; the copy was not even tried
        ("read_file", None),
        ("edit", None),
        ("run_shell_command", 0),  # the failing test
        ("run_shell_command", 0),  # all tests
    ]


async def test_the_conversation_is_well_formed(project: Path) -> None:
    agent = agent_for(project, Model(FIX))
    await play(agent)
    asked = [
        call.id
        for message in agent.conversation
        if isinstance(message, AssistantMessage)
        for call in message.tool_calls
    ]
    answered = [m.call_id for m in agent.conversation if isinstance(m, ToolMessage)]
    assert asked == answered
    last = agent.conversation[-1]
    assert isinstance(last, AssistantMessage)
    assert last.text.startswith("Fixed:")


async def test_nothing_worked_and_nothing_is_changed(project: Path) -> None:
    (project / "cart.py").write_bytes(CART.replace("\n", "\r\n").encode())
    before = contents(project)
    stamp = (project / "cart.py").stat().st_mtime_ns
    _, finished = await play(agent_for(project, Model(WRONG, COPY)))
    assert finished.reason == "failed"
    assert isinstance(finished.error, TaskNotDone)
    assert "No fix was found for test_cart.CartTest.test_total" in finished.error.message
    assert contents(project) == before
    assert (project / "cart.py").stat().st_mtime_ns == stamp


async def test_an_endless_loop_is_a_failed_answer(project: Path) -> None:
    _, finished = await play(agent_for(project, Model(LOOP, FIX)))
    assert finished.reason == "completed"


async def test_a_change_that_breaks_another_test_is_undone(project: Path) -> None:
    (project / "cart.py").write_text(CART.replace("len(prices)", "len(prices)"))
    tests = TESTS.replace("test_count", "test_zcount").replace(
        "count([1, 2]), 2", "__import__('cart').count([1, 2]), 2"
    )
    (project / "test_cart.py").write_text(tests)
    agent = agent_for(project, Model(BREAKS_OTHERS, COPY), budget=RepairBudget(max_answers=3))
    _, finished = await play(agent)
    assert finished.reason == "failed"
    assert (project / "cart.py").read_text() == CART


async def test_two_independent_failures_are_repaired_one_after_the_other(project: Path) -> None:
    (project / "cart.py").write_text(CART.replace("len(prices)", "len(prices) + 1"))
    count_fix = "```python\ndef count(prices):\n    return len(prices)\n```"

    class Both(Model):
        async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
            content = request.messages[0].content if request.messages else ""  # type: ignore[union-attr]
            self._answers = [count_fix if "test_count(self)" in content else FIX]
            async for chunk in super().stream(request):
                yield chunk

    _, finished = await play(agent_for(project, Both(FIX)))
    assert finished.reason == "completed", finished
    assert "count in cart.py" in finished.text
    assert "total in cart.py" in finished.text


async def test_what_remains_is_said(project: Path) -> None:
    (project / "cart.py").write_text(CART.replace("len(prices)", "len(prices) + 1"))
    agent = agent_for(project, Model(FIX), budget=RepairBudget(max_answers=2))
    _, finished = await play(agent)
    assert finished.reason == "failed"
    assert finished.text.startswith("Fixed: total in cart.py. Still failing: ")
    assert "test_count" in finished.text
    assert "price -" in (project / "cart.py").read_text()


async def test_nothing_fails(project: Path) -> None:
    (project / "cart.py").write_text(CART.replace("price +", "price -"))
    model = Model(FIX)
    _, finished = await play(agent_for(project, model))
    assert finished.reason == "completed"
    assert "nothing to fix" in finished.text
    assert model.requests == []


async def test_a_refused_command_ends_the_turn_in_words(project: Path) -> None:
    _, finished = await play(agent_for(project, Model(FIX), allows=lambda request: False))
    assert finished.reason == "failed"
    assert finished.error is not None
    assert "was not run" in finished.error.message
    assert "--allow" in finished.error.hint


async def test_a_refused_edit_ends_the_turn_and_changes_nothing(project: Path) -> None:
    model = Model(FIX)
    _, finished = await play(
        agent_for(project, model, allows=lambda request: request.tool == "run_shell_command")
    )
    assert finished.reason == "failed"
    assert finished.error is not None
    assert "cart.py was not changed" in finished.error.message
    assert "auto-edit" in finished.error.hint
    assert (project / "cart.py").read_text() == CART


async def test_an_edit_that_fails_for_another_reason_is_no_question_of_permission(
    project: Path,
) -> None:
    def allows(request: PermissionRequest) -> bool:
        if request.access == Access.EDIT:
            (project / "cart.py").write_text("# somebody else's\n")
        return True

    _, finished = await play(agent_for(project, Model(FIX), allows=allows))
    assert finished.reason == "failed"
    assert finished.error is not None
    assert "cart.py was not changed" in finished.error.message
    assert finished.error.hint == ""


async def test_a_broken_endpoint_fails_the_turn_and_restores(project: Path) -> None:
    model = Model(WRONG, BackendUnavailable("gone"))
    _, finished = await play(agent_for(project, model))
    assert isinstance(finished.error, BackendUnavailable)
    assert (project / "cart.py").read_text() == CART


async def test_cancelled_while_a_change_is_tried(project: Path) -> None:
    agent = agent_for(project, Model(LOOP))
    events: list[Event] = []
    async with aclosing(agent.run("fix the failing test")) as stream:
        async for event in stream:
            events.append(event)
            if isinstance(event, ToolFinished) and event.call.name == "edit":
                agent.cancel()
    finished = events[-1]
    assert isinstance(finished, TurnFinished)
    assert finished.reason == "cancelled"
    assert (project / "cart.py").read_text() == CART


async def test_a_missing_import_needs_no_model(project: Path) -> None:
    (project / "cart.py").write_text('"""Sums."""\n\n\n' + WITHOUT_IMPORT)
    model = Model(COPY)
    _, finished = await play(agent_for(project, model))
    assert finished.reason == "completed"
    assert (project / "cart.py").read_text() == (
        '"""Sums."""\n\nimport math\n\n\n' + WITHOUT_IMPORT
    )
    assert model.requests == []


async def test_a_command_that_is_not_there(project: Path) -> None:
    _, finished = await play(
        agent_for(project, Model(FIX)), "make `./run-the-tests.sh` pass, it fails"
    )
    assert finished.error is not None
    assert "could not be started" in finished.error.message


async def test_no_tests_at_all(tmp_path: Path) -> None:
    (tmp_path / "cart.py").write_text(CART)
    _, finished = await play(agent_for(tmp_path, Model(FIX)))
    assert finished.error is not None
    assert "No tests were found" in finished.error.message
    assert "make `COMMAND` pass" in finished.error.hint


async def test_a_named_command_and_a_program_that_crashes(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "def ratio(a, b):\n    return a / b\n\n\nassert ratio(1, 0) == 0\nprint('done')\n"
    )
    fix = "```python\ndef ratio(a, b):\n    return a / b if b else 0\n```"
    command = f"make `{sys.executable} job.py` pass"
    _, finished = await play(agent_for(tmp_path, Model(fix)), command)
    assert finished.reason == "completed", finished


async def test_verify_is_the_goal_and_is_not_run_twice(project: Path) -> None:
    verify = f"{sys.executable} -m unittest"
    # The person typed that command, so nobody is asked about it.
    agent = agent_for(
        project, Model(FIX), verify=verify, allows=lambda request: request.access is Access.EDIT
    )
    _, finished = await play(agent, "fix it")
    assert finished.reason == "completed"
    assert finished.verify_exit_code == 0


async def test_a_large_model_leads_and_starts_with_the_failure(project: Path) -> None:
    model = Model("I see: the sign is wrong.", strength="large")
    agent = agent_for(project, model)
    _, finished = await play(agent)
    assert finished.text == "I see: the sign is wrong."
    (request,) = model.requests
    assert any(
        isinstance(message, ToolMessage) and "test_total" in message.content
        for message in request.messages
    )
    read = [m.content for m in request.messages if isinstance(m, ToolMessage)][1:]
    assert len(read) == 2  # the test, and the file of the likeliest cause
    assert "class CartTest" in read[0]
    assert "price * percent" in read[1]


async def test_test_files_are_never_changed(project: Path) -> None:
    answer = "```python\ndef test_total(self):\n    self.assertEqual(1, 1)\n```"
    agent = agent_for(project, Model(answer), budget=RepairBudget(max_answers=3))
    _, finished = await play(agent)
    assert finished.reason == "failed"
    assert (project / "test_cart.py").read_text() == TESTS


async def test_what_a_person_writes_meanwhile_is_not_lost(project: Path) -> None:
    agent = agent_for(project, Model(LOOP))
    theirs = "# their own work\n" + CART
    async with aclosing(agent.run("fix the failing test")) as stream:
        async for event in stream:
            if isinstance(event, ToolStarted) and " -k " in event.call.arguments:
                (project / "cart.py").write_text(theirs)
                agent.cancel()
    assert (project / "cart.py").read_text() == theirs


async def test_a_named_test_is_all_that_is_repaired(project: Path) -> None:
    (project / "cart.py").write_text(CART.replace("len(prices)", "len(prices) + 1"))
    agent = agent_for(project, Model(FIX))
    _, finished = await play(agent, "test_total fails, fix it")
    assert finished.reason == "completed"
    assert "Failing before and still: test_cart.CartTest.test_count" in finished.text
    assert (project / "cart.py").read_text() == CART.replace("price +", "price -").replace(
        "len(prices)", "len(prices) + 1"
    )


async def test_a_constant_that_the_test_found_wrong_needs_no_model(tmp_path: Path) -> None:
    (tmp_path / "retry.py").write_text(
        "LONGEST = 3.5\n\n\ndef wait(n):\n    return min(2.0**n, LONGEST)\n"
    )
    (tmp_path / "test_retry.py").write_text(
        "import unittest\nfrom retry import wait\n\n\nclass WaitTest(unittest.TestCase):\n"
        "    def test_limit(self):\n        self.assertEqual(wait(20), 30.0)\n"
    )
    model = Model(COPY)
    _, finished = await play(agent_for(tmp_path, model))
    assert finished.reason == "completed"
    assert (tmp_path / "retry.py").read_text().startswith("LONGEST = 30.0\n")
    assert model.requests == []


async def test_a_change_is_taken_back_where_its_code_still_fails_another_test(
    project: Path,
) -> None:
    (project / "test_cart.py").write_text(
        TESTS
        + "\n    def test_zero(self):\n        self.assertEqual(total([30], percent=50), 15)\n"
    )
    lucky = COPY.replace("price + price * percent / 100", "price - 2")
    agent = agent_for(project, Model(lucky), budget=RepairBudget(max_answers=2))
    _, finished = await play(agent)
    assert finished.reason == "failed"
    assert (project / "cart.py").read_text() == CART
    assert "The files are as they were." in finished.text


def later(
    project: Path, root: Path, agent: Agent, model: Model, **how: bool
) -> tuple[Agent, Replay]:
    """What runs the session of `agent` again, on a project as it was in the beginning."""
    root.mkdir()
    (root / "cart.py").write_text(CART)
    (root / "test_cart.py").write_text(TESTS)
    replay = Replay(record=agent.session.entries, moved=(project, root), **how)
    return agent_for(root, model), replay


async def run_again(agent: Agent, replay: Replay) -> Replayed:
    *_, finished = [event async for event in agent.play(replay)]
    assert isinstance(finished, TurnFinished)
    assert finished.reason == "completed", finished.error
    return replay.done


async def test_a_repair_can_be_run_again(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its answers are asked for again, and its changes tried again and taken back as they were."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    agent = agent_for(project, Model(COPY, WRONG, FIX))
    _, finished = await play(agent)
    assert finished.reason == "completed"

    same = await run_again(
        *later(project, elsewhere / "ask", agent, Model(COPY, WRONG, FIX), ask=True)
    )
    assert same.difference is None
    assert (same.num_drafts, same.num_answers) == (3, 3)

    other = await run_again(*later(project, elsewhere / "other", agent, Model(COPY, FIX), ask=True))
    assert other.difference is not None
    assert (other.difference.step, other.difference.recorded) == (2, WRONG)

    live = await run_again(*later(project, elsewhere / "live", agent, Model(FIX), live=True))
    assert live.difference is None, live.difference.report()
    assert live.num_results >= 6
    assert (elsewhere / "live" / "cart.py").read_text() == (project / "cart.py").read_text()

    record = await run_again(*later(project, elsewhere / "record", agent, Model(FIX)))
    assert "Its 3 answers are asked for again with --model" in record.report()


async def test_a_repair_whose_tests_judge_otherwise_is_found(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "live"
    agent = agent_for(project, Model(COPY, WRONG, FIX))
    await play(agent)
    again, replay = later(project, elsewhere, agent, Model(FIX), live=True)
    (elsewhere / "test_cart.py").write_text(TESTS.replace("18", "17"))

    done = await run_again(again, replay)

    assert done.difference is not None
    assert done.difference.what == "the result of run_shell_command"


async def test_a_record_of_a_repair_is_stored_and_read(project: Path, tmp_path: Path) -> None:
    store = SessionStore(tmp_path / "sessions", tmp_path)
    agent = agent_for(project, Model(COPY, WRONG, FIX), session=store.create())
    await play(agent)
    agent.session.close()
    entries = read_records(store.find(agent.session.id).path).entries
    assert entries == agent.session.entries
    assert [entry.text for entry in entries if isinstance(entry, DraftEntry)] == [COPY, WRONG, FIX]
    kept = [entry.kept for entry in entries if isinstance(entry, TrialEndedEntry)]
    assert kept == [False, True]
