"""`python -m benchmarks.prompt_size [MODEL.gguf]`: tokens of system prompt and tools, before a
conversation begins, in each profile.

Counted by the vocabulary of a GGUF file, in the form each chat template gives them; without a file
estimated at one token for `BYTES_PER_TOKEN` bytes, which is more than any vocabulary measured.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import get_args

from qcode.agent.context_use import FIXED_LIMIT_TOKENS
from qcode.agent.profile import Profile
from qcode.agent.system_prompt import Facts, build_system_prompt
from qcode.agent.tool_specs import tool_spec
from qcode.assembly import create_tools, create_workspace
from qcode.config.settings import Settings
from qcode.engine.chat.hermes import HermesTemplate
from qcode.engine.chat.qwen3_coder import Qwen3CoderTemplate
from qcode.engine.chat.template import ChatTemplate
from qcode.protocol.backends import ChatRequest

BYTES_PER_TOKEN = 3.5
TEMPLATES: dict[str, ChatTemplate] = {
    "hermes": HermesTemplate(),
    "qwen3-coder": Qwen3CoderTemplate(),
}
Count = Callable[[Sequence[tuple[str, bool]]], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSize:
    profile: Profile
    template: str
    system: int
    tools: int
    num_tools: int

    @property
    def total(self) -> int:
        return self.system + self.tools

    @property
    def limit(self) -> int:
        return FIXED_LIMIT_TOKENS[self.profile]


def measure(count: Count) -> list[PromptSize]:
    """Every profile in the form of every template."""
    sizes = []
    for profile in get_args(Profile):
        request = fixed_request(profile)
        for name, template in TEMPLATES.items():
            bare = ChatRequest(system=request.system, messages=())
            system = count(template.render(bare))
            total = count(template.render(request))
            sizes.append(
                PromptSize(
                    profile=profile,
                    template=name,
                    system=system,
                    tools=total - system,
                    num_tools=len(request.tools),
                )
            )
    return sizes


def fixed_request(profile: Profile) -> ChatRequest:
    """What every request of a session begins with, in a folder with no instructions."""
    with tempfile.TemporaryDirectory() as folder:
        tools = create_tools(Settings(), create_workspace(Path(folder)), profile)
    facts = Facts(
        cwd=Path("/home/someone/projects/a-project"),
        platform="Linux x86_64",
        today=date(2026, 1, 1),
        git_branch="main",
    )
    return ChatRequest(
        system=build_system_prompt(profile=profile, facts=facts),
        messages=(),
        tools=tuple(tool_spec(tool) for tool in tools),
    )


def estimated(pieces: Sequence[tuple[str, bool]]) -> int:
    return round(sum(len(text.encode()) for text, _ in pieces) / BYTES_PER_TOKEN)


def counted_by(model: Path) -> Count:
    from qcode.engine.checkpoint.open import open_checkpoint
    from qcode.engine.models.loading import load_tokenizer

    tokenizer = load_tokenizer(open_checkpoint(model))
    return lambda pieces: len(tokenizer.encode_prompt(pieces))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prompt_size", description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="a .gguf file, for its vocabulary")
    model: Path | None = parser.parse_args().model
    how = "estimated" if model is None else f"by the vocabulary of {model.name}"
    print(f"{'profile':<10}{'template':<14}{'system':>8}{'tools':>14}{'together':>10}{'limit':>8}")
    for size in measure(estimated if model is None else counted_by(model)):
        tools = f"{size.tools} ({size.num_tools})"
        print(
            f"{size.profile:<10}{size.template:<14}{size.system:>8}{tools:>14}{size.total:>10}"
            f"{size.limit:>8}"
        )
    print(f"tokens, {how}")


if __name__ == "__main__":
    main()
