"""The table of /commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from qcode.protocol.permissions import Mode

MODES = tuple(Mode)


class ReplState(Protocol):
    """What a command may look at and change."""

    @property
    def mode(self) -> Mode: ...

    @property
    def model_name(self) -> str: ...

    @property
    def session_id(self) -> str: ...

    def set_mode(self, mode: Mode) -> None: ...

    def new_session(self) -> None: ...

    def context_report(self) -> str: ...

    def compact(self) -> str: ...

    def leave(self) -> None: ...


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """`run` gets what stands after the name and returns the text to show."""

    name: str
    description: str
    run: Callable[[ReplState, str], str]


def _help(state: ReplState, argument: str) -> str:
    del state, argument
    width = max(len(command.name) for command in SLASH_COMMANDS)
    lines = [f"{command.name:<{width}}  {command.description}" for command in SLASH_COMMANDS]
    lines += ["", "Enter sends. Alt+Enter, Ctrl+J or a trailing \\ start a new line."]
    lines += ["Shift+Tab changes how much runs unasked. Ctrl-C stops the work, Ctrl-D leaves."]
    return "\n".join(lines)


def _approval(state: ReplState, argument: str) -> str:
    if not argument:
        known = ", ".join(MODES)
        return f"Mode: {state.mode}. Choose with /approval MODE: {known}."
    if argument not in MODES:
        return f"No mode {argument!r}. There are: {', '.join(MODES)}."
    state.set_mode(Mode(argument))
    return f"Mode: {state.mode}."


def _model(state: ReplState, argument: str) -> str:
    del argument
    return f"Model: {state.model_name}. Another one: qcode --model NAME"


def _clear(state: ReplState, argument: str) -> str:
    del argument
    before = state.session_id
    state.new_session()
    kept = f" The one before stays: qcode --resume {before}" if before else ""
    return f"New conversation.{kept}"


def _context(state: ReplState, argument: str) -> str:
    del argument
    return state.context_report()


def _compact(state: ReplState, argument: str) -> str:
    del argument
    return state.compact()


def _quit(state: ReplState, argument: str) -> str:
    del argument
    state.leave()
    return ""


SLASH_COMMANDS = (
    SlashCommand("/help", "what can be typed here", _help),
    SlashCommand("/approval", "show or set the mode: plan, default, auto-edit, yolo", _approval),
    SlashCommand("/model", "show which model answers", _model),
    SlashCommand("/context", "show what fills the context window", _context),
    SlashCommand("/compact", "shorten the conversation to make room", _compact),
    SlashCommand("/clear", "start a new conversation; the old one is kept", _clear),
    SlashCommand("/quit", "leave", _quit),
)


def run_command(line: str, state: ReplState) -> str:
    """Runs one typed /command and returns what to show."""
    name, _, argument = line.strip().partition(" ")
    for command in SLASH_COMMANDS:
        if command.name == name:
            return command.run(state, argument.strip())
    near = [command.name for command in SLASH_COMMANDS if command.name.startswith(name[:2])]
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"No command {name}.{hint} /help lists them."


def next_mode(mode: Mode) -> Mode:
    """The mode Shift+Tab goes to. yolo is left out: it has to be typed."""
    cycle = [Mode.DEFAULT, Mode.AUTO_EDIT, Mode.PLAN]
    return cycle[(cycle.index(mode) + 1) % len(cycle)] if mode in cycle else Mode.DEFAULT
