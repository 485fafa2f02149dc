"""The engine's thread and its asyncio face.

The thread loads the model, then alternates between its inbox (requests, aborts) and steps.
Outputs go back to each caller's event loop. torch is imported in the thread, so that starting an
engine does not hold up whoever does it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qcode.engine.options import EngineOptions
from qcode.protocol.errors import EngineError, QcodeError
from qcode.protocol.sampling import SamplingParams

if TYPE_CHECKING:
    from qcode.engine.engine import Engine
    from qcode.engine.grammar import Constraint
    from qcode.engine.scheduling.sequence import RequestId, TokenOutput

logger = logging.getLogger(__name__)


class _Stopped(Exception):
    """Ends the loading of a model that nobody waits for any more."""


class _Stream:
    """Outputs of one request on their way to the event loop that asked for them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[TokenOutput | QcodeError] = asyncio.Queue()
        self.request_id: RequestId | None = None
        """Set and read on the engine thread only."""

    def put(self, item: TokenOutput | QcodeError) -> None:
        """Called on the engine thread."""
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:
            logger.debug("the event loop of request %s is closed", self.request_id)

    async def get(self) -> TokenOutput:
        item = await self._items.get()
        if isinstance(item, QcodeError):
            raise item
        if item.error is not None:
            raise item.error
        return item


@dataclass(frozen=True, slots=True, kw_only=True)
class _Submit:
    stream: _Stream
    submit: Callable[[Engine], RequestId]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Abort:
    stream: _Stream


class AsyncEngine:
    """May be used from several event loops. Construct with `start`."""

    def __init__(self, load: Callable[[Callable[[float], None]], Engine]) -> None:
        """`load` makes the engine, on the engine's thread; it is given a progress callback."""
        self._load = load
        self._inbox: queue.SimpleQueue[_Submit | _Abort | None] = queue.SimpleQueue()
        self._engine: concurrent.futures.Future[Engine] = concurrent.futures.Future()
        self._engine.set_running_or_notify_cancel()  # so that no waiter's cancellation reaches it
        self._closing = threading.Event()
        self._streams: dict[RequestId, _Stream] = {}
        # A daemon, so that a second Ctrl-C ends the process in the middle of a long step.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @classmethod
    def start(
        cls,
        path: Path,
        options: EngineOptions,
        progress: Callable[[float], None] | None = None,
    ) -> AsyncEngine:
        """Begin to load a checkpoint and return at once. `progress` is called on the engine's
        thread with the share that is loaded."""

        def load(report: Callable[[float], None]) -> Engine:
            from qcode.engine.engine import Engine

            def both(share: float) -> None:
                report(share)
                if progress is not None:
                    progress(share)

            return Engine.load(path, options, both)

        return cls(load)

    async def engine(self) -> Engine:
        """Wait until the model is loaded. Only the engine's constants (`loaded`, `grammars`,
        `context_window`) and its `notices` may be used outside of its thread.

        Raises `CheckpointError`, `UnsupportedModel`, `OutOfMemory`, `EngineError`.
        """
        return await asyncio.wrap_future(self._engine)

    async def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingParams,
        *,
        constraint: Constraint | None = None,
        prefix_ids: Sequence[int] = (),
        sources: Sequence[Sequence[int]] = (),
    ) -> AsyncGenerator[TokenOutput, None]:
        """The outputs of `Engine.step` for one request, the last with a finish reason.

        Raises what `Engine.load` and `Engine.submit` raise, and `EngineError` when the engine
        fails or is closed. Closing the generator aborts the request.
        """

        def submit(engine: Engine) -> RequestId:
            return engine.submit(
                prompt, sampling, constraint=constraint, prefix_ids=prefix_ids, sources=sources
            )

        async with contextlib.aclosing(self._outputs(submit)) as outputs:
            async for output in outputs:
                yield output

    async def score(self, ids: Sequence[int]) -> list[float]:
        """As `Engine.score`, beside other requests. Cancelling it aborts the request.

        Raises what `Engine.load` and `Engine.submit_score` raise, and `EngineError` when the
        engine fails or is closed.
        """
        scores: list[float] = []
        outputs = self._outputs(lambda engine: engine.submit_score(ids))
        async with contextlib.aclosing(outputs):
            async for output in outputs:
                scores += output.scores
        return scores

    async def _outputs(
        self, submit: Callable[[Engine], RequestId]
    ) -> AsyncGenerator[TokenOutput, None]:
        await self.engine()
        stream = _Stream()
        self._send(_Submit(stream=stream, submit=submit))
        try:
            while True:
                output = await stream.get()
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            # Finished requests are unknown by then; aborting is idempotent.
            self._inbox.put(_Abort(stream=stream))

    async def aclose(self) -> None:
        """Abort everything and wait for the thread: at most until its present step is done."""
        self._closing.set()
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _send(self, request: _Submit) -> None:
        self._inbox.put(request)
        # Not set yet: the request is in the inbox before the word to stop. Set: perhaps behind it.
        if self._closing.is_set():
            request.stream.put(_closed())

    def _run(self) -> None:
        engine = None
        try:
            engine = self._loaded()
            while engine is not None and self._take_requests(engine):
                self._step(engine)
        finally:
            self._closing.set()
            self._fail_all(_closed())
            if engine is not None:
                engine.close()

    def _loaded(self) -> Engine | None:
        try:
            engine = self._load(self._check_closing)
        except _Stopped:
            self._engine.set_exception(_closed())
        except QcodeError as error:
            self._engine.set_exception(error)
        except Exception as error:
            logger.exception("loading the model failed")
            self._engine.set_exception(_failure(error))
        else:
            engine.grammars.prepare()
            self._engine.set_result(engine)
            return engine
        return None

    def _check_closing(self, _share: float) -> None:
        if self._closing.is_set():
            raise _Stopped

    def _take_requests(self, engine: Engine) -> bool:
        """Empty the inbox, waiting for something if there is nothing to do. False to stop."""
        while not (engine.has_work and self._inbox.empty()):
            match self._inbox.get():
                case None:
                    return False
                case _Submit() as request:
                    self._submit(engine, request)
                case _Abort(stream=stream):
                    self._abort(engine, stream)
        return True

    def _submit(self, engine: Engine, request: _Submit) -> None:
        try:
            request_id = request.submit(engine)
        except QcodeError as error:
            request.stream.put(error)
        except Exception as error:
            logger.exception("a request could not be queued")
            request.stream.put(_failure(error))
        else:
            request.stream.request_id = request_id
            self._streams[request_id] = request.stream

    def _abort(self, engine: Engine, stream: _Stream) -> None:
        if stream.request_id in self._streams:
            del self._streams[stream.request_id]
            engine.abort(stream.request_id)

    def _step(self, engine: Engine) -> None:
        try:
            outputs = engine.step()
        except Exception as error:
            logger.exception("a step of the engine failed")
            self._fail_all(error if isinstance(error, QcodeError) else _failure(error))
            engine.reset()
            return
        for output in outputs:
            stream = self._streams[output.request_id]
            if output.finish_reason is not None:
                del self._streams[output.request_id]
            stream.put(output)

    def _fail_all(self, error: QcodeError) -> None:
        for stream in self._streams.values():
            stream.put(error)
        self._streams.clear()


def _closed() -> EngineError:
    return EngineError("the engine is closed")


def _failure(error: Exception) -> EngineError:
    return EngineError(f"the engine failed: {type(error).__name__}: {error}", "See the log.")
