"""How likely a model holds texts: the engine as it runs, the engine in exact float32, llama.cpp.

`python -m benchmarks.nll MODEL.gguf` prints the mean negative log-likelihood of each text, in nats
a token, and in the end the means and how far single tokens lie apart. llama.cpp is left out where
llama-cpp-python is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.nll_texts import TEXTS
from qcode.engine.engine import Engine
from qcode.engine.options import EngineOptions

CONTEXT_WINDOW = 2048

Scores = list[list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    model = parser.parse_args().model

    fast = Engine.load(model, EngineOptions(context_window=CONTEXT_WINDOW))
    ids = [fast.loaded.tokenizer.encode(text) for text in TEXTS.values()]
    columns = {"qcode": score_together(fast, ids)}
    del fast
    exact = Engine.load(model, EngineOptions(context_window=CONTEXT_WINDOW, dtype="float32"))
    columns["float32"] = score_together(exact, ids)
    del exact
    if importlib.util.find_spec("llama_cpp"):
        columns["llama.cpp"] = llama_cpp_scores(model, ids)
    print_table(columns)


def score_together(engine: Engine, texts: Sequence[Sequence[int]]) -> Scores:
    """As `Engine.score` of each text, but in as few steps as they fit in."""
    scores: dict[int, list[float]] = {engine.submit_score(ids): [] for ids in texts}
    while engine.has_work:
        for output in engine.step():
            scores[output.request_id] += output.scores
    return list(scores.values())


def llama_cpp_scores(model: Path, texts: Sequence[Sequence[int]]) -> Scores:
    from benchmarks.llama_cpp_scores import log_probabilities, open_for_scoring

    llama = open_for_scoring(model)
    scores = [log_probabilities(llama, ids) for ids in texts]
    llama.close()
    return scores


def print_table(columns: dict[str, Scores]) -> None:
    print(f"{'text':20}{'tokens':>8}" + "".join(f"{name:>12}" for name in columns))
    for i, name in enumerate(TEXTS):
        parts = [scores[i] for scores in columns.values()]
        print(f"{name:20}{len(parts[0]):8}" + "".join(f"{mean_nll(part):12.4f}" for part in parts))
    joined = {name: [x for part in scores for x in part] for name, scores in columns.items()}
    count = len(next(iter(joined.values())))
    print(f"{'all':20}{count:8}" + "".join(f"{mean_nll(part):12.4f}" for part in joined.values()))
    print("\ndifferences between single tokens' log-probabilities")
    names = list(joined)
    for i, left in enumerate(names):
        for right in names[i + 1 :]:
            apart = torch.tensor(joined[left]) - torch.tensor(joined[right])
            rms = float(apart.square().mean().sqrt())
            print(
                f"{left} - {right}: root mean square {rms:.4f}, most {float(apart.abs().max()):.4f}"
            )


def mean_nll(scores: Sequence[float]) -> float:
    return -sum(scores) / len(scores)


if __name__ == "__main__":
    main()
