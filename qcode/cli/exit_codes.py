"""How the command ends: the only table of exit codes (docs/contributing/architecture.md)."""

from __future__ import annotations

from typing import assert_never

from qcode.protocol.errors import (
    AuthenticationFailed,
    BackendUnavailable,
    BadInput,
    LimitReached,
    QcodeError,
    RateLimited,
    SandboxUnavailable,
    SessionError,
    SettingsError,
)
from qcode.protocol.events import TurnFinished

OK = 0
FAILED = 1
USAGE = 2
AUTHENTICATION = 41
BAD_INPUT = 42
NO_SANDBOX = 44
CONFIGURATION = 52
TURN_LIMIT = 53
OTHER_LIMIT = 55
VERIFY_FAILED = 60
TRY_AGAIN = 75
INTERRUPTED = 130
SIGNAL = 128


def exit_code_of_error(error: QcodeError) -> int:
    match error:
        case AuthenticationFailed():
            return AUTHENTICATION
        case BackendUnavailable() | RateLimited():
            return TRY_AGAIN
        case SandboxUnavailable():
            return NO_SANDBOX
        case SettingsError():
            return CONFIGURATION
        case BadInput() | SessionError():
            return BAD_INPUT
        case LimitReached():
            return TURN_LIMIT if error.limit == "max_turns" else OTHER_LIMIT
        case _:
            return FAILED


def exit_code(finished: TurnFinished, *, signal_number: int | None = None) -> int:
    """`signal_number` is the signal that stopped the turn, if one did."""
    match finished.reason:
        case "cancelled":
            return INTERRUPTED if signal_number is None else SIGNAL + signal_number
        case "limit":
            return OTHER_LIMIT if finished.error is None else exit_code_of_error(finished.error)
        case "completed" | "failed":
            if finished.verify_exit_code not in (None, 0):
                return VERIFY_FAILED
            if finished.reason == "completed":
                return OK
            return FAILED if finished.error is None else exit_code_of_error(finished.error)
        case _:
            assert_never(finished.reason)
