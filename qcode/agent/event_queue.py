"""From the turn's task to whoever reads its events."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

from qcode.protocol.events import Event, ToolProgress

_MAX_MERGED_CHARS = 64 * 1024


class EventQueue:
    """Unbounded, so that `put` never waits and a reader that leaves early blocks nobody. Progress
    of one call that nobody has read yet is merged, so that a flood of output stays small."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._closed = False
        self._changed = asyncio.Event()

    def put(self, event: Event) -> None:
        last = self._events[-1] if self._events else None
        if (
            isinstance(event, ToolProgress)
            and isinstance(last, ToolProgress)
            and last.call_id == event.call_id
        ):
            text = (last.text + event.text)[-_MAX_MERGED_CHARS:]
            self._events[-1] = replace(last, text=text)
        else:
            self._events.append(event)
        self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def get(self) -> Event | None:
        """The next event; None once the queue is closed and empty."""
        while not self._events:
            if self._closed:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()
