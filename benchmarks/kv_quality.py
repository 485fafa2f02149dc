"""What keeping keys and values in fewer bits costs: the likelihood of a long text.

`python -m benchmarks.kv_quality MODEL.gguf --tokens 8192` reads the beginning of this repository's
own source code once for each number format of the cache. Printed are the mean negative
log-likelihood, in nats a token, of the whole text and of its last quarter, and how far the
log-probabilities of single tokens lie from those of the first format.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from qcode.engine.engine import Engine
from qcode.engine.options import KV_DTYPES, EngineOptions, KVDtypeName

SOURCE = Path(__file__).parent.parent / "qcode"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--formats", default="fp16,int8")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    names = [cast("KVDtypeName", name) for name in options.formats.split(",")]
    print(f"{'':8}{'nats':>10}{'last quarter':>14}{'apart, rms':>12}{'seconds':>9}", flush=True)
    first: Tensor | None = None
    for name in names:
        started = time.monotonic()
        scores = score(options.model, name, options.tokens, options.threads)
        seconds = time.monotonic() - started
        first = scores if first is None else first
        apart = float((scores - first).square().mean().sqrt())
        quarter = scores[-len(scores) // 4 :]
        print(
            f"{name:8}{-float(scores.mean()):10.4f}{-float(quarter.mean()):14.4f}"
            f"{apart:12.4f}{seconds:9.0f}",
            flush=True,
        )


def score(model: Path, kv_dtype: KVDtypeName, num_tokens: int, threads: int | None) -> Tensor:
    """The log-probability of each token of the text after those before it [num_tokens - 1]."""
    options = EngineOptions(
        context_window=num_tokens, kv_dtype=KV_DTYPES[kv_dtype], num_threads=threads
    )
    engine = Engine.load(model, options)
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py")))
    ids = engine.loaded.tokenizer.encode(text[: 8 * num_tokens])[:num_tokens]
    if len(ids) < num_tokens:
        raise SystemExit(f"the text has {len(ids)} tokens only")
    return torch.tensor(engine.score(ids), dtype=torch.float64)


if __name__ == "__main__":
    main()
