"""When and how history is shortened."""

from __future__ import annotations

from collections.abc import Callable

from qcode.agent.session import Session
from qcode.protocol.backends import Backend, ChatRequest
from qcode.protocol.events import Event
from qcode.protocol.messages import Usage


class Compactor:
    def __init__(self, backend: Backend, session: Session) -> None:
        self._backend = backend
        self._session = session

    def observe(self, request: ChatRequest, usage: Usage) -> None:
        """Learns from a finished request how many tokens its characters really were."""

    async def shorten(
        self, request: ChatRequest, emit: Callable[[Event], None], *, force: bool = False
    ) -> bool:
        return False
