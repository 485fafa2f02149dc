"""`qcode model info`: what a model is, and which contexts fit this machine's memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qcode.cli.flags import ContextFlag
from qcode.cli.installed_models import installed_path
from qcode.cli.model_flags import JsonFlag, ModelArgument
from qcode.cli.quantities import bytes_text, count_text, window_text
from qcode.config.locations import Locations
from qcode.engine.memory.budget import MemoryBudget
from qcode.engine.memory.context_window import largest_context_window
from qcode.engine.model_config import ModelConfig
from qcode.engine.options import KV_DTYPES, KVDtypeName
from qcode.sandbox.terminal_text import printable

if TYPE_CHECKING:
    from qcode.cli.model_facts import ModelFacts

_DIALECTS = {
    "hermes": "Hermes: calls as JSON in <tool_call>",
    "qwen3-coder": "Qwen3-Coder: calls as XML in <tool_call>",
    "jinja": "the checkpoint's own template",
}
_TOO_LARGE = "✗"


def info(model: ModelArgument, as_json: JsonFlag = False, context: ContextFlag = None) -> None:
    """Show what a model is, and which contexts fit here.

    Only headers are read, whatever the model's size.
    """
    path = installed_path(model)
    # Loads torch, so not before the model is known to be there.
    from qcode.cli.model_facts import facts_record, gather_facts

    facts = gather_facts(
        path,
        name=model,
        context_window=context,
        packed_directory=Locations.from_environment(os.environ).packed_weights,
    )
    if as_json:
        print(json.dumps(facts_record(facts), indent=1))
        return
    console = Console(highlight=False)
    console.print(Text(printable(facts.name), style="bold"), soft_wrap=True)
    console.print(Text(printable(str(facts.path)), style="dim"), soft_wrap=True)
    console.print()
    console.print(_properties(facts))
    console.print()
    console.print(*_memory(facts), sep="\n")
    if context is not None:
        console.print()
        console.print(*_parts(facts, context), sep="\n")


def _properties(facts: ModelFacts) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for label, text in _lines(facts):
        table.add_row(label, Text(printable(text)))
    return table


def _lines(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    config = facts.config
    yield (
        "architecture",
        f"{config.architecture}, {config.num_layers} layers, {config.hidden_size:,} wide",
    )
    yield "attention", _attention(config)
    yield "parameters", _parameters(config)
    if config.experts:
        experts = config.experts
        shared = " and a shared one" if experts.shared_intermediate_size else ""
        yield (
            "experts",
            f"{experts.num_experts} a layer, {experts.num_experts_per_token} of them"
            f"{shared} for each token",
        )
    num_files = len(facts.files)
    yield (
        "on disk",
        bytes_text(facts.num_bytes) + (f" in {num_files} files" if num_files > 1 else ""),
    )
    if facts.packed:
        num_bytes = sum(file.stat().st_size for file in facts.packed)
        yield "packed", f"{bytes_text(num_bytes)} more, in {facts.packed[-1].parent}"
    yield "formats", _formats(facts)
    tokens = "" if facts.num_tokens is None else f", {facts.num_tokens:,} of them used"
    yield "vocabulary", f"{config.vocab_size:,} tokens{tokens}"
    yield "context", _context(config)
    yield (
        "KV cache",
        ", ".join(
            f"{budgets.kv_bytes_per_token / 1024:,.4g} KiB a token ({names})"
            for names, budgets in _columns(facts, config.context_window)
        ),
    )
    state = facts.budget(config.context_window, "auto").state_bytes
    if state:
        yield "state", f"{bytes_text(state)} a sequence, however long"
    yield "sampling", _sampling(config)
    if facts.dialect is not None:
        yield "chat", _DIALECTS[facts.dialect]


def _attention(config: ModelConfig) -> str:
    heads = (
        f"{config.num_attention_heads} query heads, {config.num_key_value_heads} for keys and "
        f"values, {config.head_dim} wide"
    )
    if config.linear_attention is None:
        return heads
    return f"{heads}; linear in {len(config.linear_attention.layers)} layers"


def _parameters(config: ModelConfig) -> str:
    total, active = config.num_parameters, config.num_active_parameters
    return count_text(total) + (f", {count_text(active)} active" if active != total else "")


def _formats(facts: ModelFacts) -> str:
    total = max(1, sum(facts.formats.values()))
    shares = sorted(facts.formats.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {_percent(size / total)}" for name, size in shares)


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "<1%"


def _context(config: ModelConfig) -> str:
    own = f"{config.context_window:,} tokens"
    if config.yarn:
        return f"{own}, by YaRN factor {config.yarn.factor:.4g}"
    return f"{own}; up to {largest_context_window(config):,} with --context, by YaRN"


def _sampling(config: ModelConfig) -> str:
    said = config.generation
    named = (
        ("temperature", said.temperature),
        ("top_p", said.top_p),
        ("top_k", said.top_k),
        ("repetition penalty", said.repetition_penalty),
    )
    return ", ".join(f"{name} {value:g}" for name, value in named if value is not None) or (
        "the checkpoint does not say"
    )


def _columns(facts: ModelFacts, window: int) -> list[tuple[str, MemoryBudget]]:
    """Budgets of a window by the cache's number format; formats of one size share a column."""
    names: list[KVDtypeName] = [name for name in KV_DTYPES if name != "auto"]
    budgets = [(name, facts.budget(window, name)) for name in names]
    groups = groupby(budgets, key=lambda item: item[1].kv_bytes_per_token)
    columns = [list(group) for _, group in groups]
    return [(", ".join(name for name, _ in column), column[0][1]) for column in columns]


def _memory(facts: ModelFacts) -> Iterator[Text | Table]:
    free, total = facts.available_memory_bytes, facts.total_memory_bytes
    yield Text(f"Memory by context, with {bytes_text(free)} of {bytes_text(total)} free", "bold")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("context", justify="right")
    for names, _ in _columns(facts, facts.config.context_window):
        table.add_column(names, justify="right")
    table.add_column("")
    rows = {window: [item for _, item in _columns(facts, window)] for window in facts.windows}
    all_fit = all(item.fits for items in rows.values() for item in items)
    for window, items in rows.items():
        kind = Text(_kind(facts.config, window), "dim")
        cells = [_total(item, marked=not all_fit) for item in items]
        table.add_row(window_text(window), *cells, kind)
    if all_fit:
        yield table
        return
    longest = [item.largest_context_window for item in rows[facts.config.context_window]]
    if any(longest):
        table.add_row("longest", *(f"{tokens:,}  " for tokens in longest), Text("tokens", "dim"))
    yield table
    yield Text(f"{_TOO_LARGE} more than is free", "dim")
    if facts.config.experts and sum(facts.formats.values()) > free:
        yield Text("Experts are read from disk as they are needed: it runs, but slowly.", "dim")


def _total(item: MemoryBudget, *, marked: bool) -> Text:
    text = bytes_text(item.total_bytes)
    if not item.fits:
        return Text(f"{text} {_TOO_LARGE}", "dim")
    return Text(f"{text}  " if marked else text)


def _kind(config: ModelConfig, window: int) -> str:
    if window == config.context_window:
        return "the model's own"
    if window < config.context_window:
        return ""
    return f"YaRN factor {window / config.context_window:.4g}"


def _parts(facts: ModelFacts, window: int) -> Iterator[Text | Table]:
    yield Text(f"A context of {window_text(window)}", "bold")
    columns = _columns(facts, window)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", style="dim")
    for names, _ in columns:
        table.add_column(names, justify="right")
    budgets = [item for _, item in columns]
    table.add_row("weights", *(bytes_text(item.weight_bytes) for item in budgets))
    table.add_row("keys and values", *(bytes_text(item.kv_bytes) for item in budgets))
    if budgets[0].state_bytes:
        table.add_row("state", *(bytes_text(item.state_bytes) for item in budgets))
    table.add_row("one step, about", *(bytes_text(item.scratch_bytes) for item in budgets))
    table.add_row("together", *(bytes_text(item.total_bytes) for item in budgets))
    yield table
