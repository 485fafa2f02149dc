"""What a GGUF file says beside its tensors: the network, the tokenizer, how to sample.

Keys: the GGUF specification, and those llama.cpp reads for these architectures.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

from qcode.engine.checkpoint.gguf import MetadataValue
from qcode.engine.checkpoint.json_file import read_json
from qcode.engine.checkpoint.safetensors_checkpoint import SafetensorsCheckpoint
from qcode.engine.checkpoint.vocabulary import (
    Vocabulary,
    byte_level_text,
    vocabulary_from_directory,
)
from qcode.engine.model_config import Architecture, GenerationDefaults, ModelConfig
from qcode.engine.models.loading import END_TOKENS, read_chat_template
from qcode.protocol.errors import CheckpointError

QUANTIZATION_VERSION = 2
_ARCHITECTURES: Mapping[Architecture, str] = {
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "qwen3_next": "qwen3next",
}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_ABOUT_THE_FILE = ("general.alignment", "general.file_type", "general.quantization_version")

Metadata = dict[str, MetadataValue]


def copied_metadata(metadata: Mapping[str, MetadataValue], file_type: int) -> Metadata:
    """What another GGUF file says, but for what is about that file itself."""
    kept = {
        key: value
        for key, value in metadata.items()
        if key not in _ABOUT_THE_FILE and not key.startswith(("split.", "quantize."))
    }
    return kept | _file_metadata(file_type)


def metadata_of_directory(checkpoint: SafetensorsCheckpoint, file_type: int) -> Metadata:
    """Made from the JSON files. Raises CheckpointError, UnsupportedModel."""
    config, path = checkpoint.config, checkpoint.path.resolve()
    template = read_chat_template(checkpoint)
    return (
        {"general.type": "model", "general.name": path.name}
        | _file_metadata(file_type)
        | dict(_sampling(config.generation))
        | network_metadata(config)
        | _tokenizer(path, config)
        | ({"tokenizer.chat_template": template} if template else {})
    )


def network_metadata(config: ModelConfig) -> Metadata:
    """The architecture and the sizes of a network."""
    architecture = _ARCHITECTURES[config.architecture]
    sizes = {f"{architecture}.{key}": value for key, value in _network(config)}
    return {"general.architecture": architecture} | sizes


def _file_metadata(file_type: int) -> Metadata:
    return {
        "general.file_type": file_type,
        "general.quantization_version": QUANTIZATION_VERSION,
    }


def _sampling(defaults: GenerationDefaults) -> Iterator[tuple[str, MetadataValue]]:
    given = {
        "temp": defaults.temperature,
        "top_p": defaults.top_p,
        "top_k": defaults.top_k,
        "penalty_repeat": defaults.repetition_penalty,
    }
    for key, value in given.items():
        if value is not None:
            yield f"general.sampling.{key}", value


def _network(config: ModelConfig) -> Iterator[tuple[str, MetadataValue]]:
    yield "block_count", config.num_layers
    yield "context_length", config.context_window
    yield "embedding_length", config.hidden_size
    yield "feed_forward_length", config.intermediate_size
    yield "attention.head_count", config.num_attention_heads
    yield "attention.head_count_kv", config.num_key_value_heads
    yield "attention.layer_norm_rms_epsilon", config.rms_norm_eps
    if config.head_dim * config.num_attention_heads != config.hidden_size or config.qk_norm:
        yield "attention.key_length", config.head_dim
        yield "attention.value_length", config.head_dim
    yield "rope.freq_base", config.rope_theta
    if config.rotary_dim != config.head_dim:
        yield "rope.dimension_count", config.rotary_dim
    if config.yarn:
        yield "rope.scaling.type", "yarn"
        yield "rope.scaling.factor", config.yarn.factor
        yield "rope.scaling.original_context_length", config.yarn.original_context
        yield "rope.scaling.yarn_beta_fast", config.yarn.beta_fast
        yield "rope.scaling.yarn_beta_slow", config.yarn.beta_slow
    if config.experts:
        yield "expert_count", config.experts.num_experts
        yield "expert_used_count", config.experts.num_experts_per_token
        yield "expert_feed_forward_length", config.experts.intermediate_size
        yield "expert_weights_norm", config.experts.norm_topk_prob
        if config.experts.shared_intermediate_size:
            yield "expert_shared_feed_forward_length", config.experts.shared_intermediate_size
    linear = config.linear_attention
    if linear:
        yield "ssm.conv_kernel", linear.conv_kernel_size
        yield "ssm.state_size", linear.key_head_dim
        yield "ssm.group_count", linear.num_key_heads
        yield "ssm.time_step_rank", linear.num_value_heads
        yield "ssm.inner_size", linear.num_value_heads * linear.value_head_dim
        yield "full_attention_interval", min(config.attention_layers, default=0) + 1


def _tokenizer(path: Path, config: ModelConfig) -> Metadata:
    vocabulary = vocabulary_from_directory(path)
    tokens, kinds = _tokens(vocabulary, config.vocab_size)
    metadata: Metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": array("i", kinds),
        "tokenizer.ggml.merges": _merges(path),
        "tokenizer.ggml.add_bos_token": False,
    }
    ends = [
        vocabulary.special_tokens[text] for text in END_TOKENS if text in vocabulary.special_tokens
    ]
    named = [end for end in ends if end in config.generation.eos_ids]
    eos = [*named, *sorted(config.generation.eos_ids), *ends]
    if eos:
        metadata["tokenizer.ggml.eos_token_id"] = eos[0]
    if ends:
        metadata["tokenizer.ggml.padding_token_id"] = ends[-1]
    return metadata


def _tokens(vocabulary: Vocabulary, count: int) -> tuple[list[str], list[int]]:
    """The text and the kind of every row of the embedding."""
    texts = [f"[PAD{number}]" for number in range(count)]
    kinds = [_UNUSED] * count
    for content, number in vocabulary.ranks.items():
        texts[number], kinds[number] = byte_level_text(content), _NORMAL
    for text, number in vocabulary.special_tokens.items():
        looks_special = text.startswith("<|") and text.endswith("|>")
        texts[number], kinds[number] = text, _CONTROL if looks_special else _USER_DEFINED
    return texts, kinds


def _merges(path: Path) -> list[str]:
    """Both parts of each merge with a space between; `vocabulary_from_directory` has checked
    that they are there."""
    if (path / "tokenizer.json").exists():
        match read_json(path / "tokenizer.json"):
            case {"model": {"merges": [*merges]}}:
                return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
        raise CheckpointError(f"{path / 'tokenizer.json'}: the merges are missing")
    lines = (path / "merges.txt").read_text("utf-8").split("\n")
    return [line for line in lines if line and not line.startswith("#version")]
