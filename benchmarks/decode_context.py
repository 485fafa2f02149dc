"""How fast the next token comes at each length of context.

`python -m benchmarks.decode_context MODEL.gguf` fills the cache with noise, since reading a prompt
of 32K tokens takes minutes and changes nothing about the time. Whole steps of the network are
timed, output layer included; the number formats of the cache and the lengths take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch

from qcode.engine.layers.attention import AttentionInputs
from qcode.engine.layers.cache import DeltaState, LayerCache
from qcode.engine.memory.budget import kv_bytes_per_token
from qcode.engine.memory.kv_cache import KVCache
from qcode.engine.memory.recurrent_state import RecurrentStates
from qcode.engine.models.loading import LoadedModel, load_model
from qcode.engine.options import KV_DTYPES, KVDtypeName, parse_context

BLOCK_SIZE = 16
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--contexts", default="128,2K,8K,16K,32K")
    parser.add_argument("--formats", default="fp16,int8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=4, help="timed in a row, each round")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    contexts = [parse_context(text) for text in options.contexts.split(",")]
    formats = [cast("KVDtypeName", name) for name in options.formats.split(",")]
    torch.set_num_threads(options.threads)
    loaded = load_model(options.model)
    steps = {name: stepper(loaded, name, max(contexts)) for name in formats}
    times: dict[tuple[KVDtypeName, int], list[float]] = {}
    for _ in range(options.rounds):
        for context in contexts:
            for name, step in steps.items():
                step(context)  # the pages and caches of the one before are still warm
                for _ in range(options.tokens):
                    start = time.perf_counter()
                    step(context)
                    times.setdefault((name, context), []).append(time.perf_counter() - start)
    report(loaded, list(steps), contexts, times)


def report(
    loaded: LoadedModel,
    names: list[KVDtypeName],
    contexts: list[int],
    times: dict[tuple[KVDtypeName, int], list[float]],
) -> None:
    print(
        f"{'cache':12}{'context':>9}{'tokens/s':>10}{'best':>8}{'of shortest':>13}{'cache, GB':>11}"
    )
    for name in names:
        shortest = statistics.median(times[name, contexts[0]])
        for context in contexts:
            seconds = statistics.median(times[name, context])
            size = context * kv_bytes_per_token(loaded.config, KV_DTYPES[name]) / 1e9
            print(
                f"{name:12}{context:9}{1 / seconds:10.1f}{1 / min(times[name, context]):8.1f}"
                f"{shortest / seconds:13.2f}{size:11.3f}"
            )


def stepper(loaded: LoadedModel, name: KVDtypeName, window: int) -> Callable[[int], object]:
    """A function that computes the token after that many others."""
    config = loaded.config
    num_blocks = -(-window // BLOCK_SIZE)
    cache = KVCache(
        config,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        kv_dtype=KV_DTYPES[name],
        device=CPU,
        key_channels=loaded.model.key_channels,
    )
    for layer in cache.layers:
        for values in (layer.keys, layer.values):
            noise = torch.randn(values.shape[1:]) * (40 if values.dtype == torch.int8 else 1)
            values[:] = noise.to(values.dtype)
        for scales in (layer.key_scales, layer.value_scales):
            if scales is not None:
                scales.fill_(1 / 40)
    states = RecurrentStates(config, num_slots=1, dtype=torch.float32, device=CPU)
    for state in states.layers.values():
        state.conv.zero_()
        state.recurrent.zero_()
    caches: list[LayerCache | DeltaState] = []
    full = iter(cache.layers)
    for index in range(config.num_layers):
        caches.append(states.layers[index] if index in states.layers else next(full))
    tables = torch.randperm(num_blocks).int().unsqueeze(0)

    def step(context: int) -> object:
        last = context - 1
        slot = int(tables[0, last // BLOCK_SIZE]) * BLOCK_SIZE + last % BLOCK_SIZE
        inputs = AttentionInputs(
            positions=torch.tensor([last]),
            slots=torch.tensor([slot]),
            query_starts=torch.tensor([0, 1], dtype=torch.int32),
            context_lens=torch.tensor([context], dtype=torch.int32),
            block_tables=tables,
            state_slots=torch.tensor([0]),
        )
        with torch.inference_mode():
            hidden = loaded.model.forward(torch.tensor([1000]), inputs, caches)
            return loaded.model.logits(hidden)

    return step


if __name__ == "__main__":
    main()
