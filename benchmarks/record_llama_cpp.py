"""Writes down what llama.cpp answers and how likely it holds given texts, for
tests/engine/test_llama_cpp_greedy.py and test_llama_cpp_nll.py to hold us against.

`python -m benchmarks.record_llama_cpp {greedy,nll} FOLDER TARGET`, where FOLDER has
qwen2.5-coder-0.5b.gguf and qwen2.5-coder-1.5b.gguf and TARGET is
tests/golden/llama_cpp_{greedy,nll}.json. Needs llama-cpp-python and nothing of ours: even the ids
of the texts are llama.cpp's. The answers are greedy, without penalties, and end at MAX_TOKENS or
before the token that ends an answer. Sums are rounded as the processor likes it best, so two
machines may record different tokens where two are about equally likely.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import llama_cpp

from benchmarks.llama_cpp_scores import SETTINGS, log_probabilities, open_for_scoring
from benchmarks.nll_texts import TEXTS

MODELS = ("qwen2.5-coder-0.5b.gguf", "qwen2.5-coder-1.5b.gguf")
MAX_TOKENS = 32

TOOLS = """\
You are a coding agent.

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{"type": "function", "function": {"name": "read", "description": "Read a file.", "parameters": \
{"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}}
{"type": "function", "function": {"name": "bash", "description": "Run a command.", "parameters": \
{"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}}}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""

INVENTORY = '''\
"""A shop's stock: what there is, what is reserved, and what has to be ordered again."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Item:
    sku: str
    price_cents: int
    in_stock: int = 0
    reserved: int = 0

    @property
    def available(self) -> int:
        return self.in_stock - self.reserved


@dataclass
class Inventory:
    items: dict[str, Item] = field(default_factory=dict)

    def add(self, item: Item) -> None:
        if item.sku in self.items:
            raise ValueError(f"{item.sku} is already known")
        self.items[item.sku] = item

    def reserve(self, sku: str, count: int) -> None:
        item = self.items[sku]
        if count > item.available:
            raise ValueError(f"only {item.available} of {sku} are left")
        item.reserved += count

    def release(self, sku: str, count: int) -> None:
'''


def chat(system: str, user: str) -> str:
    """The ChatML of the Qwen family, up to where the answer begins."""
    turns = (("system", system), ("user", user))
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)
    return text + "<|im_start|>assistant\n"


PROMPTS = {
    "python": "def fibonacci(n):\n",
    "long python": INVENTORY,
    "typescript": "// Waits until no call has come for `ms` milliseconds.\n"
    "export function debounce<T extends unknown[]>(call: (...args: T) => void, ms: number) {\n",
    "fill in the middle": "<|fim_prefix|>def mean(values: list[float]) -> float:\n"
    '    if not values:\n        raise ValueError("no values")\n'
    "    <|fim_suffix|>\n\n\nprint(mean([1, 2, 4]))\n"
    "<|fim_middle|>",
    "fill in an expression": "<|fim_prefix|>def add(a, b):\n    return <|fim_suffix|>\n\n\n"
    "print(add(2, 3))\n<|fim_middle|>",
    "fill in a line": "<|fim_prefix|>export function average(values: number[]): number {\n"
    "  let total = 0;\n  for (const value of values) {\n    <|fim_suffix|>\n  }\n"
    "  return total / values.length;\n}\n<|fim_middle|>",
    "prose": "The lighthouse keeper had not spoken to anyone for three weeks when",
    "other scripts": "Die Straße führt über die Brücke nach Köln. 这座桥很老。 Übersetzung: “",
    "write code": chat("You are a helpful assistant.", "Write is_prime(n) in Python."),
    "explain": chat("Answer in one short paragraph.", "What does git rebase do?"),
    "short answer": chat("Answer with one word.", "Is 91 a prime number?"),
    "question with tools": chat(TOOLS, "Which tests are in tests/test_cart.py?"),
}


def record_nll(model: Path) -> dict[str, object]:
    llama = open_for_scoring(model)
    texts = [
        {"name": name, "text": text, **likelihood(llama, text)} for name, text in TEXTS.items()
    ]
    llama.close()
    return {"model": model.name, "sha256": sha256(model), "texts": texts}


def likelihood(llama: llama_cpp.Llama, text: str) -> dict[str, object]:
    ids = llama.tokenize(text.encode(), add_bos=False, special=False)
    scores = log_probabilities(llama, ids)
    return {
        "ids": ids,
        "logprobs": [round(score, 5) for score in scores],
        "mean_nll": round(-sum(scores) / len(scores), 6),
    }


def record_greedy(model: Path) -> dict[str, object]:
    llama = llama_cpp.Llama(str(model), n_ctx=1024, n_threads=2, verbose=False)
    answers = [
        {"prompt": name, "text": text, **answer(llama, text)} for name, text in PROMPTS.items()
    ]
    llama.close()
    return {"model": model.name, "sha256": sha256(model), "answers": answers}


def answer(llama: llama_cpp.Llama, text: str) -> dict[str, object]:
    prompt_ids = llama.tokenize(text.encode(), add_bos=False, special=True)
    vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
    llama.reset()  # type: ignore[no-untyped-call]
    token_ids: list[int] = []
    ended = False
    for token in llama.generate(prompt_ids, temp=0.0, repeat_penalty=1.0):
        ended = llama_cpp.llama_vocab_is_eog(vocabulary, token)
        if ended:
            break
        token_ids.append(token)
        if len(token_ids) == MAX_TOKENS:
            break
    return {"prompt_ids": prompt_ids, "token_ids": token_ids, "ended": ended}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(recording: Mapping[str, object]) -> str:
    """Indented, but with each list of numbers on one line; a line break inside text is escaped."""
    text = json.dumps(recording, indent=1, ensure_ascii=False)
    return re.sub(r"(?<=\[)\n[-.e\d,\s]+(?=\])", lambda ids: " ".join(ids[0].split()), text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("greedy", "nll"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    models = [options.folder / name for name in MODELS]
    recording: dict[str, object] = {
        "llama_cpp_python": llama_cpp.__version__,
        "processor": llama_cpp.llama_print_system_info().decode(),
    }
    if options.what == "nll":
        recording |= {"settings": SETTINGS, "models": [record_nll(model) for model in models]}
    else:
        recording |= {"models": [record_greedy(model) for model in models]}
    options.target.write_text(as_json(recording))


if __name__ == "__main__":
    main()
