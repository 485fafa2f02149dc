"""The table of exit codes, row by row. tests/end_to_end checks the same through the command."""

from __future__ import annotations

import signal

import pytest

from qcode.cli.exit_codes import exit_code, exit_code_of_error
from qcode.protocol.errors import (
    AnswerNotInForm,
    AuthenticationFailed,
    BackendUnavailable,
    BadInput,
    CheckpointError,
    ContextOverflow,
    InvalidResponse,
    LimitReached,
    ModelStoreError,
    QcodeError,
    RateLimited,
    SessionError,
    SettingsError,
    TaskNotDone,
)
from qcode.protocol.events import TurnFinished


def limit(name: str) -> LimitReached:
    return LimitReached("stopped", limit=name)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QcodeError("x"), 1),
        (TaskNotDone("x"), 1),
        (AnswerNotInForm("x"), 1),
        (InvalidResponse("x"), 1),
        (ContextOverflow("x"), 1),
        (CheckpointError("x"), 1),
        (ModelStoreError("x"), 1),
        (AuthenticationFailed("x"), 41),
        (BadInput("x"), 42),
        (SessionError("x"), 42),
        (SettingsError("x"), 52),
        (limit("max_turns"), 53),
        (limit("max_wall_time"), 55),
        (limit("max_tool_calls"), 55),
        (limit("max_tokens"), 55),
        (limit("max_cost"), 55),
        (BackendUnavailable("x"), 75),
        (RateLimited("x"), 75),
    ],
)
def test_errors(error: QcodeError, code: int) -> None:
    assert exit_code_of_error(error) == code
    assert exit_code(TurnFinished(reason="failed", error=error)) == code


@pytest.mark.parametrize(
    ("finished", "number", "code"),
    [
        (TurnFinished(reason="completed"), None, 0),
        (TurnFinished(reason="completed", verify_exit_code=0), None, 0),
        (TurnFinished(reason="completed", verify_exit_code=2), None, 60),
        (TurnFinished(reason="failed", error=TaskNotDone("x"), verify_exit_code=2), None, 60),
        (TurnFinished(reason="failed"), None, 1),
        (TurnFinished(reason="limit"), None, 55),
        (
            TurnFinished(reason="limit", error=limit("max_turns"), verify_exit_code=1),
            None,
            53,
        ),
        (TurnFinished(reason="cancelled"), None, 130),
        (TurnFinished(reason="cancelled"), signal.SIGINT, 130),
        (TurnFinished(reason="cancelled"), signal.SIGHUP, 129),
        (TurnFinished(reason="cancelled"), signal.SIGTERM, 143),
        # The signal came when the work was done already.
        (TurnFinished(reason="completed"), signal.SIGTERM, 0),
    ],
)
def test_ends_of_a_turn(finished: TurnFinished, number: int | None, code: int) -> None:
    assert exit_code(finished, signal_number=number) == code
