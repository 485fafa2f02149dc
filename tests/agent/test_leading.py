"""Which strategy a prompt gets, by settings and model."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcode.agent.completion_tests import Tested
from qcode.agent.leading import Leading
from qcode.agent.named_files import ReadNamedFiles
from qcode.agent.repair.choice import FailureFirst
from qcode.agent.repair.repair import RepairStrategy
from qcode.agent.turn import ToolLoop
from qcode.protocol.backends import ModelInfo

LARGE = ModelInfo(name="l", context_window=None)
SMALL = ModelInfo(name="s", context_window=None, strength="small")
FIX = "fix the failing test"


def kinds(leading: Leading, prompt: str, model: ModelInfo) -> list[type]:
    """The strategy, and the one inside it."""
    strategy = leading.strategy(prompt, model, Path("/work"))
    inner = [type(strategy._strategy)] if isinstance(strategy, Tested) else []
    return [type(strategy), *inner]


@pytest.mark.parametrize(
    ("leading", "prompt", "model", "expected"),
    [
        (Leading(), "add a flag", LARGE, [Tested, ToolLoop]),
        (Leading(), FIX, LARGE, [Tested, FailureFirst]),
        (Leading(), FIX, SMALL, [RepairStrategy]),
        (Leading(repair="always"), FIX, LARGE, [RepairStrategy]),
        (Leading(repair="never"), FIX, SMALL, [Tested, ToolLoop]),
        (Leading(failure_context=False), FIX, LARGE, [Tested, ToolLoop]),
        (Leading(profile="lean"), "add a flag", LARGE, [Tested, ReadNamedFiles]),
        (Leading(run_tests=False), "add a flag", LARGE, [ToolLoop]),
        (Leading(verify="pytest"), FIX, LARGE, [FailureFirst]),
        (Leading(own_tools=True), FIX, SMALL, [Tested, ToolLoop]),
    ],
)
def test_settings_and_model_choose(
    leading: Leading, prompt: str, model: ModelInfo, expected: list[type]
) -> None:
    assert kinds(leading, prompt, model) == expected
