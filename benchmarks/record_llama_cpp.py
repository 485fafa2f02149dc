"""Writes down what llama.cpp answers, for tests/engine/test_llama_cpp_greedy.py to hold us against.

`python -m benchmarks.record_llama_cpp FOLDER tests/golden/llama_cpp_greedy.json`, where FOLDER has
qwen2.5-coder-0.5b.gguf and qwen2.5-coder-1.5b.gguf. Needs llama-cpp-python and nothing of ours:
even the ids of the prompts are llama.cpp's. The answers are greedy, without penalties, and end at
MAX_TOKENS or before the token that ends an answer. Sums are rounded as the processor likes it best,
so two machines may record different tokens where two are about equally likely.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import llama_cpp

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
    "prose": "The lighthouse keeper had not spoken to anyone for three weeks when",
    "other scripts": "Die Straße führt über die Brücke nach Köln. 这座桥很老。 Übersetzung: “",
    "write code": chat("You are a helpful assistant.", "Write is_prime(n) in Python."),
    "explain": chat("Answer in one short paragraph.", "What does git rebase do?"),
    "short answer": chat("Answer with one word.", "Is 91 a prime number?"),
    "question with tools": chat(TOOLS, "Which tests are in tests/test_cart.py?"),
}


def record(model: Path) -> dict[str, object]:
    llama = llama_cpp.Llama(str(model), n_ctx=1024, n_threads=2, verbose=False)
    answers = [
        {"prompt": name, "text": text, **answer(llama, text)} for name, text in PROMPTS.items()
    ]
    llama.close()
    with model.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"model": model.name, "sha256": digest, "answers": answers}


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


def as_json(recording: Mapping[str, object]) -> str:
    """Indented, but with each list of ids on one line; a line break inside text is escaped."""
    text = json.dumps(recording, indent=1, ensure_ascii=False)
    return re.sub(r"(?<=\[)\n[\d,\s]+(?=\])", lambda ids: " ".join(ids[0].split()), text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    recording = {
        "llama_cpp_python": llama_cpp.__version__,
        "models": [record(options.folder / name) for name in MODELS],
    }
    options.target.write_text(as_json(recording))


if __name__ == "__main__":
    main()
