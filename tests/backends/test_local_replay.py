"""What the bundled engine sampled can be sampled again: the session holds the seed."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
from random_checkpoint import write_safetensors

from qcode.agent.agent import Agent
from qcode.agent.permissions import PermissionPolicy
from qcode.agent.replay import Replay
from qcode.agent.session import MessageEntry, RequestEntry, Session
from qcode.backends.local import LocalBackend
from qcode.engine.options import EngineOptions
from qcode.protocol.events import TurnFinished
from qcode.protocol.messages import AssistantMessage
from qcode.protocol.permissions import Answer, Mode, PermissionRequest
from qcode.protocol.sampling import SamplingParams

pytestmark = pytest.mark.anyio


class Nobody:
    async def ask(self, request: PermissionRequest, reason: str) -> Answer:
        return Answer(allowed=False)


def agent_of(backend: LocalBackend, session: Session) -> Agent:
    return Agent(
        backend=backend,
        tools=[],
        policy=PermissionPolicy(mode=Mode.DEFAULT, workspace_root=Path("/")),
        approver=Nobody(),
        session=session,
        system_prompt="Be brief.",
        sampling=SamplingParams(temperature=1.5, max_tokens=12),
    )


async def finish(agent: Agent, prompt: str) -> TurnFinished:
    async with aclosing(agent.run(prompt)) as events:
        last = [event async for event in events][-1]
    assert isinstance(last, TurnFinished)
    return last


async def test_sampled_answers_come_again(tmp_path: Path) -> None:
    checkpoint = write_safetensors(tmp_path, "qwen2", max_position_embeddings=2048)
    options = EngineOptions(kv_dtype="float32", num_threads=1)
    backend = LocalBackend(checkpoint, name="tiny", options=options)
    try:
        agent = agent_of(backend, Session(session_id="first"))
        for prompt in ("Hello", "Once more"):
            assert (await finish(agent, prompt)).reason == "completed"
        entries = agent.session.entries
        seeds = [entry.sampling.seed for entry in entries if isinstance(entry, RequestEntry)]
        assert len(set(seeds)) == len(seeds) >= 2
        assert None not in seeds
        again = agent_of(backend, Session(session_id="again"))
        replay = Replay(record=entries, ask=True)
        async with aclosing(again.play(replay)) as events:
            assert [event async for event in events]
        assert replay.done.difference is None, replay.done.difference
        assert replay.done.num_answers == sum(
            isinstance(entry, MessageEntry) and isinstance(entry.message, AssistantMessage)
            for entry in entries
        )
    finally:
        await backend.aclose()
