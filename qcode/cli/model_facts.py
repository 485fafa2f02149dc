"""What the header of a checkpoint says about a model, and what its contexts take of the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch

from qcode.engine.chat.hermes import HermesTemplate
from qcode.engine.chat.qwen3_coder import Qwen3CoderTemplate
from qcode.engine.chat.template import choose_template
from qcode.engine.checkpoint.gguf_checkpoint import GgufCheckpoint
from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.checkpoint.safetensors_checkpoint import SafetensorsCheckpoint
from qcode.engine.checkpoint.split_names import split_part_names
from qcode.engine.memory import available as memory
from qcode.engine.memory.budget import MemoryBudget, budget
from qcode.engine.memory.context_window import largest_context_window, with_context_window
from qcode.engine.model_config import ModelConfig
from qcode.engine.models.loading import load_tokenizer, read_chat_template
from qcode.engine.options import KV_DTYPES, KVDtypeName
from qcode.engine.store.packed_models import packed_files
from qcode.protocol.errors import CheckpointError, UnsupportedModel
from qcode.protocol.values import dataclass

_COMPARED_ROWS = 16
_SAME_ROWS_COSINE = 0.9
"""Rounded to different formats, rows of one matrix have 0.99; those of two trained ones are far
from it."""
_USUAL_WINDOWS = (8 << 10, 32 << 10, 128 << 10, 256 << 10, 1 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """`formats` are bytes by the name of the format they are stored in. `dialect` says how chats
    are written; it and `num_tokens`, those of the tokenizer, are None where the files do not tell.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    config: ModelConfig
    formats: Mapping[str, int]
    dialect: str | None
    num_tokens: int | None
    total_memory_bytes: int
    available_memory_bytes: int
    packed: tuple[Path, ...]
    """Files of its packed weights."""
    windows: tuple[int, ...]
    """Contexts to budget, in tokens, ascending."""

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def budget(self, context_window: int, kv_dtype: KVDtypeName) -> MemoryBudget:
        return budget(
            self.config,
            weight_bytes=sum(self.formats.values()),
            kv_dtype=KV_DTYPES[kv_dtype],
            context_window=context_window,
            available_bytes=self.available_memory_bytes,
        )


def gather_facts(
    path: Path, *, name: str, context_window: int | None, packed_directory: Path
) -> ModelFacts:
    """Reads headers, and of a GGUF file a few rows. `context_window` is one to budget beside the
    usual ones; `name` is used where the file has none of its own.

    Raises CheckpointError, UnsupportedModel, and EngineError for a window the model cannot have.
    """
    checkpoint = open_checkpoint(path, exact=True)
    config = checkpoint.config
    if isinstance(checkpoint, GgufCheckpoint) and _has_embedding_twice(checkpoint):
        config = replace(config, tie_word_embeddings=True)
    with_context_window(config, context_window)
    largest = largest_context_window(config)
    windows = {*_USUAL_WINDOWS, config.context_window, largest, context_window or largest}
    return ModelFacts(
        name=_own_name(checkpoint) or Path(name).name or path.name,
        path=path,
        files=model_files(path),
        config=config,
        formats=checkpoint.format_mix(),
        dialect=_dialect(checkpoint),
        num_tokens=_num_tokens(checkpoint),
        total_memory_bytes=memory.total_bytes(),
        available_memory_bytes=memory.available_bytes(),
        packed=tuple(packed_files(path, packed_directory)),
        windows=tuple(sorted(window for window in windows if window <= largest)),
    )


def _has_embedding_twice(checkpoint: GgufCheckpoint) -> bool:
    """Whether the output matrix is the embedding stored once more, in another format: GGUF files
    of models that tie the two often hold both, and such a model's parameters count once."""
    config = checkpoint.config
    if config.tie_word_embeddings:
        return False
    shape = (config.vocab_size, config.hidden_size)
    ids = torch.arange(0, config.vocab_size, -(-config.vocab_size // _COMPARED_ROWS))
    embedding = checkpoint.weight("model.embed_tokens.weight", shape).rows(ids)
    output = checkpoint.weight("lm_head.weight", shape).rows(ids)
    cosines = torch.cosine_similarity(embedding.float(), output.float())
    return bool(cosines.mean() > _SAME_ROWS_COSINE)


def model_files(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights: all parts of a split one."""
    if path.is_dir():
        return tuple(sorted(path.glob("*.safetensors")))
    return tuple(path.parent / name for name in split_part_names(path.name) or (path.name,))


def facts_record(facts: ModelFacts) -> dict[str, object]:
    """As plain JSON values under names that stay. Sizes are in bytes, windows in tokens."""
    config, experts = facts.config, facts.config.experts
    linear = config.linear_attention
    default = facts.budget(config.context_window, "auto")
    kv_dtypes = [kv_dtype for kv_dtype in KV_DTYPES if kv_dtype != "auto"]
    sampling = asdict(config.generation)
    sampling["eos_ids"] = sorted(config.generation.eos_ids)
    return {
        "name": facts.name,
        "path": str(facts.path),
        "files": [str(file) for file in facts.files],
        "bytes": facts.num_bytes,
        "packed_files": [str(file) for file in facts.packed],
        "formats": dict(facts.formats),
        "architecture": config.architecture,
        "parameters": config.num_parameters,
        "active_parameters": config.num_active_parameters,
        "layers": config.num_layers,
        "linear_attention_layers": len(linear.layers) if linear else 0,
        "experts": experts.num_experts if experts else 0,
        "experts_per_token": experts.num_experts_per_token if experts else 0,
        "vocabulary": config.vocab_size,
        "tokenizer_tokens": facts.num_tokens,
        "chat_dialect": facts.dialect,
        "context_window": config.context_window,
        "largest_context_window": largest_context_window(config),
        "yarn_factor": config.yarn.factor if config.yarn else None,
        "kv_bytes_per_token": default.kv_bytes_per_token,
        "kv_bytes_per_token_by_dtype": {
            kv_dtype: facts.budget(config.context_window, kv_dtype).kv_bytes_per_token
            for kv_dtype in kv_dtypes
        },
        "state_bytes_per_sequence": default.state_bytes,
        "sampling": sampling,
        "memory": {
            "total_bytes": facts.total_memory_bytes,
            "available_bytes": facts.available_memory_bytes,
            "contexts": [
                _budget_record(facts.budget(window, kv_dtype), kv_dtype)
                for window in facts.windows
                for kv_dtype in kv_dtypes
            ],
            "largest_fitting_context": {
                kv_dtype: facts.budget(config.context_window, kv_dtype).largest_context_window
                for kv_dtype in kv_dtypes
            },
        },
    }


def _budget_record(item: MemoryBudget, kv_dtype: KVDtypeName) -> dict[str, object]:
    return {
        "context_window": item.context_window,
        "kv_dtype": kv_dtype,
        "weight_bytes": item.weight_bytes,
        "kv_bytes": item.kv_bytes,
        "state_bytes": item.state_bytes,
        "scratch_bytes": item.scratch_bytes,
        "total_bytes": item.total_bytes,
        "fits": item.fits,
    }


def _own_name(checkpoint: GgufCheckpoint | SafetensorsCheckpoint) -> str | None:
    if isinstance(checkpoint, SafetensorsCheckpoint):
        return None
    name = checkpoint.file.metadata.get("general.name")
    return name if isinstance(name, str) and name else None


def _dialect(checkpoint: GgufCheckpoint | SafetensorsCheckpoint) -> str | None:
    try:
        template = choose_template(
            architecture=checkpoint.config.architecture,
            jinja_source=read_chat_template(checkpoint),
        )
    except UnsupportedModel:
        return None
    match template:
        case HermesTemplate():
            return "hermes"
        case Qwen3CoderTemplate():
            return "qwen3-coder"
        case _:
            return "jinja"


def _num_tokens(checkpoint: GgufCheckpoint | SafetensorsCheckpoint) -> int | None:
    try:
        return load_tokenizer(checkpoint).num_tokens
    except (CheckpointError, UnsupportedModel):
        return None
