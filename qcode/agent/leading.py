"""How a turn is led: which strategy a prompt gets, by what was set and by what the model can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from qcode.agent.completion_tests import Tested
from qcode.agent.named_files import ReadNamedFiles
from qcode.agent.profile import Profile
from qcode.agent.repair.goal import find_goal
from qcode.agent.turn import ToolLoop, TurnStrategy
from qcode.protocol.backends import ModelInfo
from qcode.protocol.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Leading:
    """Each field is the setting of its name. `own_tools`: the person chose the tools, and the
    harness leads with those it knows, not with some of them."""

    repair: Literal["auto", "always", "never"] = "auto"
    failure_context: bool = True
    run_tests: bool = True
    resample: bool = True
    verify: str | None = None
    profile: Profile = "full"
    own_tools: bool = False

    def strategies(
        self, model: Callable[[], ModelInfo], root: Path
    ) -> Callable[[str], TurnStrategy]:
        """`model` is asked with each prompt: some backends learn of it late."""
        return lambda prompt: self.strategy(prompt, model(), root)

    def strategy(self, prompt: str, model: ModelInfo, root: Path) -> TurnStrategy:
        goal = find_goal(prompt, verify=self.verify)
        strategy: TurnStrategy = ToolLoop()
        if self.own_tools:
            pass
        elif goal is not None and self.repair != "never":
            # Late: much to load for what most prompts do not ask for.
            from qcode.agent.repair.choice import repair_strategy
            from qcode.agent.repair.repair import RepairStrategy

            if self.repair == "always":
                model = replace(model, strength="small")
            led = repair_strategy(goal, model=model, root=root, verify=self.verify)
            if isinstance(led, RepairStrategy):
                return led  # the tests have judged every change already
            strategy = led if self.failure_context else strategy
        elif self.profile == "lean":
            strategy = ReadNamedFiles(root)
        if self.run_tests and self.verify is None:
            return Tested(strategy, root=root, goal=goal, resample=self.resample)
        return strategy
