"""A long prompt through the engine, and what it costs: `python -m benchmarks.long_context`.

A tiny network with random weights and the rotary settings of Qwen3-Coder (theta 1e7, 262,144 tokens
and YaRN beyond) reads a prompt in chunks. For each number format of the cache, in a process of its
own, the memory for keys and values is computed first, then set beside what the process grew by.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from qcode.engine.options import KV_DTYPES, KVDtype, KVDtypeName, parse_context

NUM_MARKS = 4
ROOM_FOR_ANSWER = 64
NATIVE_WINDOW = 262_144
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
END_TOKENS = ("<|endoftext|>", "<|im_end|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Where a run stood when it had read `num_tokens` of the prompt."""

    num_tokens: int
    seconds: float
    kv_bytes: int
    """For these tokens, as computed beforehand."""
    grown_bytes: int
    """By how much the resident memory of the process had grown since the first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    kv_dtype: str
    window_kv_bytes: int
    """Computed before anything was loaded, for the whole window."""
    marks: tuple[Mark, ...]
    decode_s: float
    """One more token at the end."""


def write_checkpoint(directory: Path) -> None:
    """A Qwen3 network with random weights and a vocabulary of single bytes."""
    import torch
    from safetensors.torch import save_file

    from qcode.engine.checkpoint.vocabulary import byte_level_text

    vocabulary = {byte_level_text(bytes([byte])): byte for byte in range(256)}
    config = {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": len(vocabulary) + len(END_TOKENS),
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000_000,
        "max_position_embeddings": NATIVE_WINDOW,
        "tie_word_embeddings": True,
        "attention_bias": False,
        **SHAPE,
    }
    added = {len(vocabulary) + i: {"content": text} for i, text in enumerate(END_TOKENS)}
    texts = {
        "config.json": json.dumps(config),
        "vocab.json": json.dumps(vocabulary),
        "merges.txt": "#version: 0.2\n",
        "tokenizer_config.json": json.dumps({"added_tokens_decoder": added}),
    }
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")

    generator = torch.Generator().manual_seed(0)
    hidden, wide = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    heads = SHAPE["num_attention_heads"] * SHAPE["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (cast("int", config["vocab_size"]), hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(SHAPE["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        shapes |= {
            f"{name}.input_layernorm.weight": (hidden,),
            f"{name}.post_attention_layernorm.weight": (hidden,),
            f"{name}.self_attn.q_norm.weight": (SHAPE["head_dim"],),
            f"{name}.self_attn.k_norm.weight": (SHAPE["head_dim"],),
            f"{name}.self_attn.o_proj.weight": (hidden, heads),
            f"{name}.mlp.gate_proj.weight": (wide, hidden),
            f"{name}.mlp.up_proj.weight": (wide, hidden),
            f"{name}.mlp.down_proj.weight": (hidden, wide),
            **{f"{name}.self_attn.{part}_proj.weight": (heads, hidden) for part in "qkv"},
        }
    weights = {
        name: torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        if len(shape) == 2
        else torch.ones(shape)
        for name, shape in shapes.items()
    }
    save_file(weights, directory / "model.safetensors")


def measure(num_tokens: int, kv_dtype: KVDtypeName, threads: int | None) -> Run:
    """Write the checkpoint, read a prompt of `num_tokens` random bytes and answer one token."""
    from qcode.engine.checkpoint.open import open_checkpoint
    from qcode.engine.engine import Engine
    from qcode.engine.memory.available import available_bytes
    from qcode.engine.memory.budget import budget
    from qcode.engine.memory.context_window import with_context_window
    from qcode.engine.options import EngineOptions
    from qcode.protocol.sampling import SamplingParams

    kind: KVDtype = KV_DTYPES[kv_dtype]
    window = num_tokens + ROOM_FOR_ANSWER
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        write_checkpoint(path)
        computed = budget(
            with_context_window(open_checkpoint(path).config, window),
            weight_bytes=(path / "model.safetensors").stat().st_size,
            kv_dtype=kind,
            context_window=window,
            available_bytes=available_bytes(),
        )
        options = EngineOptions(context_window=window, kv_dtype=kind, num_threads=threads)
        engine = Engine.load(path, options)
    draw = random.Random(0)
    engine.submit(
        [draw.randrange(256) for _ in range(num_tokens)],
        SamplingParams(temperature=0, repetition_penalty=1.0, max_tokens=2),
    )
    engine.step()
    resident, started = resident_bytes(), time.perf_counter()
    marks: list[Mark] = []
    decode_s = 0.0
    while engine.has_work:
        step_started = time.perf_counter()
        outputs = engine.step()
        decode_s = time.perf_counter() - step_started
        done = outputs[0].prefill.done_tokens if outputs and outputs[0].prefill else 0
        if done * NUM_MARKS >= num_tokens * (len(marks) + 1):
            marks.append(
                Mark(
                    num_tokens=done,
                    seconds=time.perf_counter() - started,
                    kv_bytes=done * computed.kv_bytes_per_token,
                    grown_bytes=resident_bytes() - resident,
                )
            )
    return Run(
        kv_dtype=kv_dtype,
        window_kv_bytes=computed.kv_bytes,
        marks=tuple(marks),
        decode_s=decode_s,
    )


def resident_bytes() -> int:
    """Memory of this process that is backed, files it maps included (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _print(run: Run) -> None:
    print(
        f"{run.kv_dtype}: {_mib(run.window_kv_bytes)} MiB computed for keys and values of the "
        "whole window\n"
        "   tokens   seconds   computed MiB   grown MiB   beyond MiB"
    )
    for mark in run.marks:
        print(
            f"{mark.num_tokens:>9,} {mark.seconds:>9.1f} {_mib(mark.kv_bytes):>14} "
            f"{_mib(mark.grown_bytes):>11} {_mib(mark.grown_bytes - mark.kv_bytes):>12}"
        )
    print(f"one token after that: {run.decode_s * 1000:.0f} ms\n", flush=True)


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--tokens", type=parse_context, default=131_072, help="as 32768 or 128K")
    parser.add_argument("--kv-dtype", nargs="+", choices=KV_DTYPES, default=["fp16", "int8"])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", action="store_true", help="print one object a line")
    asked = parser.parse_args()
    for kv_dtype in asked.kv_dtype:
        if len(asked.kv_dtype) > 1:
            # Memory that one run gave back would hide what the next one takes.
            arguments = ["--tokens", str(asked.tokens), "--kv-dtype", kv_dtype]
            arguments += [] if asked.threads is None else ["--threads", str(asked.threads)]
            arguments += ["--json"] if asked.json else []
            command = [sys.executable, "-m", "benchmarks.long_context", *arguments]
            subprocess.run(command, check=True)
            continue
        run = measure(asked.tokens, kv_dtype, asked.threads)
        if asked.json:
            print(json.dumps(asdict(run)))
        else:
            _print(run)


if __name__ == "__main__":
    main()
