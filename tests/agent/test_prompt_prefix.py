"""Every request begins with the very text of the one before: what was read once stays cached."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from loop_parts import Bench, Script, calls, play, says

from qcode.agent.session import Session
from qcode.agent.session_store import SessionStore
from qcode.engine.chat.hermes import HermesTemplate
from qcode.engine.chat.qwen3_coder import Qwen3CoderTemplate
from qcode.engine.chat.template import ChatTemplate
from qcode.protocol.backends import ChatRequest
from qcode.protocol.errors import ContextOverflow
from qcode.protocol.messages import UserMessage

pytestmark = pytest.mark.anyio

TEMPLATES: list[ChatTemplate] = [HermesTemplate(), Qwen3CoderTemplate()]


def rendered(template: ChatTemplate, request: ChatRequest) -> str:
    return "".join(text for text, _ in template.render(request))


def assert_each_extends_the_last(requests: list[ChatRequest]) -> None:
    for template in TEMPLATES:
        # The mark that opens the answer is the one thing at the end that is not kept.
        opening = len(rendered(template, requests[0])) - len(
            rendered(template, requests[0]).rstrip().removesuffix("<|im_start|>assistant")
        )
        for before, after in pairwise(requests):
            kept = rendered(template, before)[:-opening]
            assert rendered(template, after).startswith(kept)


def busy_scripts() -> list[Script]:
    return [
        calls(("read_file", {"path": "a.py"}), ("read_file", {"path": "nowhere.py"})),
        calls(("edit", {"path": "a.py", "text": "print(3)\n"}), ("nonsense", {})),
        calls(("run_shell_command", {"command": "make"})),
        says(""),  # asked to go on
        says("Done."),
    ]


async def test_steps_and_turns_only_append() -> None:
    bench = Bench(*busy_scripts(), *busy_scripts())
    await play(bench.agent, "first")
    bench.agent.steer("quickly")
    await play(bench.agent, "second")
    assert len(bench.model.requests) == 10
    assert_each_extends_the_last(bench.model.requests)
    first, *others = bench.model.requests
    assert all(request.tools == first.tools for request in others)


async def test_a_resumed_session_sends_the_same_bytes(tmp_path: Path) -> None:
    store = SessionStore(tmp_path, tmp_path)
    bench = Bench(*busy_scripts(), session=store.create())
    await play(bench.agent, "first")
    bench.agent.session.close()
    again = Bench(says("ok"), session=store.open(bench.agent.session.id))
    await play(again.agent, "second")
    assert_each_extends_the_last([*bench.model.requests, *again.model.requests])


async def test_after_a_compaction_the_new_prefix_is_kept() -> None:
    session = Session(session_id="s")
    for number in range(60):
        session.add(UserMessage(content=f"{number} " + "word " * 200))
    overflow: Script = [ContextOverflow("too long")]
    bench = Bench(overflow, says("Summary."), says("ok"), *busy_scripts(), session=session)
    await play(bench.agent, "next")
    await play(bench.agent, "and on")
    before, _summary, *after = bench.model.requests
    assert_each_extends_the_last(after)
    with pytest.raises(AssertionError):
        assert_each_extends_the_last([before, after[0]])
