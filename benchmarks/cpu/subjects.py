"""The engines that are measured, each with a model loaded, behind one interface."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from qcode.engine.measurement import Clock, Timing, time_answer

PREFIX_CACHE_BYTES = 10 * 2**30
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """`prefix_folder` makes it a session, as its users get it: what was computed for the beginning
    of a prompt is used again, and kept in that folder where an engine can. Without it every
    prompt is computed anew and every token decoded by itself. Without `uses_packed_file` our
    engine packs the weights anew though there may be a file of them beside the model."""

    model: Path
    threads: int
    clock: Clock
    context_window: int
    prefix_folder: Path | None = None
    uses_packed_file: bool = True


class Subject(Protocol):
    """An engine with its model loaded."""

    def answer(self, prompt: Sequence[int], num_tokens: int) -> Timing:
        """A greedy answer of exactly so many tokens."""
        ...

    def close(self) -> None:
        """Ends what goes on in the background, all of it done."""
        ...


class Qcode:
    """Our engine."""

    def __init__(self, setup: Setup) -> None:
        from qcode.engine.engine import Engine
        from qcode.engine.options import EngineOptions, PrefixCacheOptions

        folder = setup.prefix_folder
        options = EngineOptions(
            num_threads=setup.threads, context_window=setup.context_window, max_sequences=1
        )
        if folder is None:
            options = replace(options, prefix_reuse=False, speculation="off")
        else:
            cache = PrefixCacheOptions(directory=folder, max_bytes=PREFIX_CACHE_BYTES)
            options = replace(options, prefix_cache=cache)
        if not setup.uses_packed_file:
            options = replace(options, packed_weights=None)
        self._clock = setup.clock
        self._engine = Engine.load(setup.model, options)

    def answer(self, prompt: Sequence[int], num_tokens: int) -> Timing:
        return time_answer(self._engine, prompt, num_tokens, self._clock)

    def close(self) -> None:
        self._engine.close()


class LlamaCpp:
    """llama.cpp through the low-level interface of llama-cpp-python, with its default options.

    In a session the longest common beginning of two prompts stays in its cache, as with the
    `Llama` class and the server of that package; neither keeps anything for the next process
    unless the program around it saves the state itself.
    """

    def __init__(self, setup: Setup) -> None:
        import llama_cpp
        from numpy.ctypeslib import as_array

        self._as_array = as_array
        self._clock = setup.clock
        self._api = llama_cpp
        self._silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._silence, None)
        llama_cpp.llama_backend_init()
        loaded = llama_cpp.llama_model_load_from_file(
            str(setup.model).encode(), llama_cpp.llama_model_default_params()
        )
        options = llama_cpp.llama_context_default_params()
        self._batch_size = 2048
        options.n_ctx, options.n_batch = setup.context_window, self._batch_size
        options.n_threads = options.n_threads_batch = setup.threads
        self._context = llama_cpp.llama_init_from_model(loaded, options)
        if not self._context:
            raise SystemExit("llama.cpp could not load the model")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
        self._keeps_prefix = setup.prefix_folder is not None
        self._known: list[int] = []

    def answer(self, prompt: Sequence[int], num_tokens: int) -> Timing:
        began = self._clock()
        num_known = self._forget_beyond(prompt)
        token = self._evaluate(prompt[num_known:], num_known)
        before = self._clock()
        prefill_s = before - began
        token_ids, token_s = [token], []
        for position in range(len(prompt), len(prompt) + num_tokens - 1):
            token = self._evaluate([token], position)
            token_ids.append(token)
            token_s.append(self._clock() - before)
            before = self._clock()
        self._known = [*prompt, *token_ids[:-1]]
        return Timing(prefill_s=prefill_s, token_s=tuple(token_s), token_ids=tuple(token_ids))

    def close(self) -> None:
        pass

    def _forget_beyond(self, prompt: Sequence[int]) -> int:
        """Keeps the beginning that the last prompt shares; its number of tokens, all but one at
        most: the last gives the logits."""
        if not self._keeps_prefix:
            self._api.llama_memory_clear(self._memory, True)
            return 0
        count = 0
        for known, token in zip(self._known, prompt[:-1], strict=False):
            if known != token:
                break
            count += 1
        self._api.llama_memory_seq_rm(self._memory, 0, count, -1)
        return count

    def _evaluate(self, ids: Sequence[int], first_position: int) -> int:
        """Computes the ids and returns the likeliest next one."""
        for start in range(0, len(ids), self._batch_size):
            self._decode(ids[start : start + self._batch_size], first_position + start)
        logits = self._api.llama_get_logits_ith(self._context, -1)
        return int(self._as_array(logits, shape=(self._vocab_size,)).argmax())

    def _decode(self, ids: Sequence[int], first_position: int) -> None:
        batch = self._api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, first_position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i == len(ids) - 1
        failed = self._api.llama_decode(self._context, batch)
        self._api.llama_batch_free(batch)
        if failed:
            raise RuntimeError("llama_decode failed")


SUBJECTS: Mapping[str, Callable[[Setup], Subject]] = {"qcode": Qcode, "llama.cpp": LlamaCpp}
