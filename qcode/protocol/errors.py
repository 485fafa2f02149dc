"""The exception tree. Every error has one reader: the model, the user, or us.

QcodeError(message, hint)
  SettingsError                names the source and the key
  BackendError                 BackendUnavailable*, RateLimited*, ContextOverflow, InvalidResponse,
                               AuthenticationFailed                        (* a retry may help)
  EngineError                  CheckpointError, UnsupportedModel, OutOfMemory
  ModelStoreError              a model that cannot be found, fetched or trusted
  ToolError (for the model)    OutsideWorkspace, FileChanged, NotText
  SessionError                 a session file
  PeerError                    an MCP, ACP or HTTP peer
  BadInput                     a prompt, standard input or file the person gave
  TaskNotDone                  the turn ended well-formed but without the result that was asked for
    AnswerNotInForm            ... since the answer is not of the asked-for form
  LimitReached                 a turn used up one of its limits; carries the limit's name
"""

from __future__ import annotations


class QcodeError(Exception):
    """An expected failure: `message` says what happened, `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SettingsError(QcodeError):
    """A setting that cannot be used; the message names its source and key."""


class BackendError(QcodeError):
    """A model could not answer."""


class BackendUnavailable(BackendError):
    """The endpoint refused, timed out, broke off or answered 5xx. A retry may help."""


class RateLimited(BackendError):
    """The endpoint asked to wait."""

    def __init__(self, message: str, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s


class AuthenticationFailed(BackendError):
    """The endpoint refused the key, or wants one."""


class ContextOverflow(BackendError):
    """The request does not fit the model's context window."""


class InvalidResponse(BackendError):
    """The endpoint answered with something that is not a chat completion."""


class EngineError(QcodeError):
    """The bundled engine failed."""


class CheckpointError(EngineError):
    """A model file is damaged or malicious; the message names file and tensor."""


class UnsupportedModel(EngineError):
    """A well-formed checkpoint of an architecture or format the engine does not run."""


class OutOfMemory(EngineError):
    """Weights or cache do not fit; the message gives the sizes and the hint what would fit."""


class ModelStoreError(QcodeError):
    """A named model cannot be found, fetched or verified."""


class ToolError(QcodeError):
    """An expected tool failure, worded so that the model's next call can succeed."""


class OutsideWorkspace(ToolError):
    """A path that leads out of the workspace."""


class FileChanged(ToolError):
    """The file on disk is not the one that was read."""


class NotText(ToolError):
    """The file holds binary data."""


class SessionError(QcodeError):
    """A session file cannot be used."""


class PeerError(QcodeError):
    """An MCP, ACP or HTTP peer misbehaved."""


class SandboxUnavailable(QcodeError):
    """A sandbox was required for commands, and this machine or version has none."""


class BadInput(QcodeError):
    """A prompt, standard input or file given to the command that cannot be worked with."""


class TaskNotDone(QcodeError):
    """The work ended without the asked-for result; the message says so in one honest sentence."""


class AnswerNotInForm(TaskNotDone):
    """The closing answer does not have the form that was asked for."""


class LimitReached(QcodeError):
    """A turn used up a limit: `limit` is the field's name in `TurnLimits`, as "max_turns"."""

    def __init__(self, message: str, hint: str = "", limit: str = "") -> None:
        super().__init__(message, hint)
        self.limit = limit
