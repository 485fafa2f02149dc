"""Events -> the terminal. Finished blocks are printed once into the scrollback; below them one
small live region shows what is going on now, and is erased when it is over."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import assert_never

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from qcode.frontends.progress import waiting_time
from qcode.frontends.repl.diff_view import render_diff
from qcode.frontends.repl.markdown_stream import MarkdownStream
from qcode.protocol.chunks import (
    PrefillProgress,
    ReasoningDelta,
    Retrying,
    TextDelta,
    ToolCallDelta,
)
from qcode.protocol.events import (
    ApprovalRequested,
    ApprovalResolved,
    ContextCompacted,
    DraftDelta,
    Event,
    MessageAdded,
    Notice,
    StepStarted,
    ToolFinished,
    ToolProgress,
    ToolStarted,
    TurnFinished,
    TurnStarted,
)
from qcode.protocol.messages import AssistantMessage
from qcode.protocol.permissions import DiffDisplay, Display
from qcode.protocol.tools import TodoDisplay
from qcode.sandbox.terminal_text import printable

LIVE_LINES = 8
OUTPUT_LINES = 6
REFRESH_S = 0.1

_TODO_MARKS = {"pending": "[ ]", "in_progress": "[>]", "completed": "[x]"}


class Transcript:
    """Shows a turn on a console: a context manager around it, with `animate` as a task beside."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._markdown = MarkdownStream()
        self._activity = "thinking"
        self._tail = ""
        self._last_text = ""
        self._asked_about: Display | None = None
        self._tokens = 0
        self._started_s = time.monotonic()
        self._live: Live | None = None
        self._spinner = Spinner("dots" if console.encoding == "utf-8" else "line")

    def __enter__(self) -> Transcript:
        self._started_s = time.monotonic()
        self._tokens = 0
        self._set_activity("thinking")
        self.resume()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.pause()

    def pause(self) -> None:
        """Takes the live region away, so that something else can use the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def resume(self) -> None:
        if self._live is None and self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._live_region,
                auto_refresh=False,  # its thread would race with what is printed above
                redirect_stdout=False,
                redirect_stderr=False,
                transient=True,
                vertical_overflow="crop",
            )
            self._live.start(refresh=True)

    async def animate(self) -> None:
        """Keeps the live region moving until cancelled. On the thread that calls `show`."""
        while True:
            await asyncio.sleep(REFRESH_S)
            if self._live is not None:
                self._live.refresh()

    def show(self, event: Event) -> None:
        match event:
            case TextDelta(text=text):
                self._show_text(text)
            case DraftDelta(text=text):
                self._tokens += 1
                self._set_activity("trying a change")
                self._tail = (self._tail + text)[-4000:]
            case ReasoningDelta():
                self._tokens += 1
                self._set_activity("thinking")
            case ToolCallDelta(name=name):
                self._tokens += 1
                if name:
                    self._flush_text()
                    self._set_activity(f"writing a call of {printable(name)}")
            case PrefillProgress():
                self._set_activity(_prefill(event))
            case Retrying(wait_s=wait_s, reason=reason):
                self._markdown = MarkdownStream()
                self._print_prose(
                    Text(f"retrying {waiting_time(wait_s)}: {printable(reason)}", "yellow")
                )
            case ToolStarted(title=title):
                self._flush_text()
                self._set_activity(printable(title))
            case ToolProgress(text=text):
                self._tail = (self._tail + text)[-4000:]
            case ToolFinished():
                self._show_tool(event)
                self._set_activity("thinking")
            case ApprovalRequested(request=request):
                self._flush_text()
                self._asked_about = request.preview
                self._set_activity("waiting for your answer")
            case ContextCompacted(before_tokens=before, after_tokens=after):
                self._print(Text(f"history shortened: {before:,} -> {after:,} tokens", "dim"))
            case Notice(text=text, level=level):
                self._flush_text()
                style = "yellow" if level == "warning" else "dim"
                self._print_prose(Text(f"· {printable(text)}", style))
            case TurnFinished():
                self._finish(event)
            case StepStarted():
                self._flush_text()
                self._set_activity("thinking")
            case MessageAdded(message=AssistantMessage() as message):
                self._show_unstreamed(message)
            case MessageAdded() | TurnStarted() | ApprovalResolved():
                pass
            case _:
                assert_never(event)

    def _show_text(self, text: str) -> None:
        self._tokens += 1
        self._set_activity("writing")
        # Cleaned block by block: an escape sequence may come in pieces.
        for block in self._markdown.feed(text):
            self._print(Markdown(printable(block)))

    def _show_unstreamed(self, message: AssistantMessage) -> None:
        """What was streamed is there already; what the harness says itself comes whole."""
        if self._markdown.fed:
            self._flush_text()
        elif message.text.strip():
            self._print(Markdown(printable(message.text)))
        self._last_text = message.text
        self._markdown = MarkdownStream()

    def _flush_text(self) -> None:
        rest = self._markdown.finish()
        if rest.strip():
            self._print(Markdown(printable(rest)))

    def _show_tool(self, event: ToolFinished) -> None:
        result = event.result
        mark, style = ("x", "red") if result.is_error else ("*", "green")
        line = Text()
        line.append(f"{mark} ", style=style)
        line.append(printable(event.title))
        if event.duration_s >= 1:
            line.append(f"  {event.duration_s:.1f} s", style="dim")
        self._print(line)
        match result.display:
            case DiffDisplay() if result.display == self._asked_about:
                pass  # the person has just seen it, with the question
            case DiffDisplay():
                self._print(render_diff(result.display, indent="  "))
            case TodoDisplay(items=items):
                for item in items:
                    self._print(Text(f"  {_TODO_MARKS[item.status]} {printable(item.content)}"))
            case shown:
                text = result.content if shown is None else shown.text
                if result.is_error or result.exit_code is not None:
                    self._print(Text(_folded(printable(text)), "dim"))

    def _finish(self, event: TurnFinished) -> None:
        self._flush_text()
        if event.reason == "cancelled":
            self._print_prose(Text("Stopped. What was said so far is kept.", "yellow"))
        if event.error is not None:
            if event.error.message != self._last_text:
                self._print_prose(Text(printable(event.error.message), "red"))
            if event.error.hint:
                self._print_prose(Text(f"hint: {printable(event.error.hint)}"))
        if event.check is not None:
            style = "dim" if event.check.exit_code == 0 else "yellow"
            self._print_prose(Text(printable(event.check.sentence), style))
        seconds = time.monotonic() - self._started_s
        usage = event.usage
        summary = f"{seconds:.0f} s · {usage.input_tokens:,} tokens in"
        if usage.cached_tokens:
            summary += f" ({usage.cached_tokens:,} cached)"
        self._print(Text(f"{summary} · {usage.output_tokens:,} out", "dim"))

    def _print(self, renderable: RenderableType) -> None:
        """Text goes to the terminal in whole lines, so that it can be copied as it is."""
        self._console.print(renderable, soft_wrap=isinstance(renderable, Text))

    def _print_prose(self, text: Text) -> None:
        """Sentences are broken between words."""
        self._console.print(text)

    def _set_activity(self, activity: str) -> None:
        if activity != self._activity:
            self._activity = activity
            self._tail = ""

    def _live_region(self) -> RenderableType:
        width = self._console.width
        lines = printable(self._markdown.tail or self._tail).splitlines()
        grid = Table.grid()
        for line in lines[-LIVE_LINES:]:
            grid.add_row(Text(line[: width - 1], "dim", no_wrap=True, overflow="crop"))
        seconds = time.monotonic() - self._started_s
        facts = f"  {seconds:.0f} s" + (f"  {self._tokens} tokens" if self._tokens else "")
        status = Text(self._activity.replace("\n", " "), "dim", no_wrap=True)
        status.truncate(max(width - 4 - len(facts), 1), overflow="ellipsis")
        row = Table.grid(padding=(0, 1))
        row.add_row(self._spinner, status.append(facts))
        row.add_row("", Text("Ctrl-C stops", "dim"))
        grid.add_row(row)
        return grid


def _prefill(progress: PrefillProgress) -> str:
    total = max(progress.total_tokens, 1)
    percent = 100 * progress.done_tokens // total
    return f"reading {total:,} tokens: {percent} %"


def _folded(text: str) -> str:
    lines = text.strip().splitlines()
    hidden = len(lines) - OUTPUT_LINES
    shown = lines[-OUTPUT_LINES:]
    head = [f"  … {hidden} lines above"] if hidden > 0 else []
    return "\n".join([*head, *(f"  {line}" for line in shown)])
