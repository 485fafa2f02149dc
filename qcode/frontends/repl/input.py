"""The prompt line: multi-line editing, history across sessions, keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style

PROMPT = "> "
CONTINUATION = "  "
_STYLE = Style.from_dict({"bottom-toolbar": "noreverse", "prompt": "bold"})


class PromptInput:
    """Reads one prompt after another.

    Enter sends; Alt+Enter, Ctrl+J or a trailing backslash continue on the next line; a paste is
    kept whole. Shift+Tab calls `next_mode`. `toolbar` is the line below, asked at each redraw.
    """

    def __init__(
        self,
        *,
        history_file: Path | None,
        commands: Iterable[tuple[str, str]],
        toolbar: Callable[[], str],
        next_mode: Callable[[], None],
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(history_file),
            completer=_CommandCompleter(tuple(commands)),
            complete_while_typing=True,
            enable_history_search=False,
            multiline=True,
            prompt_continuation=CONTINUATION,
            key_bindings=_key_bindings(next_mode),
            bottom_toolbar=lambda: _toolbar(toolbar()),
            style=_STYLE,
            enable_open_in_editor=True,
            input=input,
            output=output,
        )

    async def read(self, default: str = "") -> str:
        """The next prompt. Raises KeyboardInterrupt on Ctrl-C and EOFError on Ctrl-D."""
        return await self._session.prompt_async(PROMPT, default=default)


def _toolbar(text: str) -> StyleAndTextTuples:
    return [("class:bottom-toolbar", text)]


def _history(file: Path | None) -> History:
    if file is None:
        return InMemoryHistory()
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
    except OSError:  # a read-only home costs the history, not the session
        return InMemoryHistory()
    return _KeptHistory(str(file))


class _KeptHistory(FileHistory):
    """The prompts of all sessions, in a file. On a full disk they last as long as the program."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)


def _key_bindings(next_mode: Callable[[], None]) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state and buffer.complete_state.current_completion:
            buffer.complete_state = None
        elif buffer.document.text_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline()
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("s-tab")
    def _(event: KeyPressEvent) -> None:
        next_mode()
        event.app.invalidate()

    return keys


class _CommandCompleter(Completer):
    """Completes /commands at the start of the prompt."""

    def __init__(self, commands: tuple[tuple[str, str], ...]) -> None:
        self._commands = commands

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        typed = document.text_before_cursor
        if not typed.startswith("/") or " " in typed or "\n" in typed:
            return
        for name, description in self._commands:
            if name.startswith(typed):
                yield Completion(name, start_position=-len(typed), display_meta=description)
