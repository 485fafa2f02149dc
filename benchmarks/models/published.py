"""The published models of the family, by their configs: does the config parse, does the parameter
count match, and does a model of the same config with smaller sizes compute what transformers does.

tests/published_configs holds the facts of the published config.json files. Where
`config_is_the_published_file` is false the file itself was not read, and the values are the shapes
that the model's GGUF files or its general sibling of the same size have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from quantized_checkpoint import FORMATS, write_quantized
from random_checkpoint import Config, Family, write_safetensors
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.models import TESTS
from benchmarks.models.architectures import check_checkpoint
from benchmarks.models.real_files import file_names
from qcode.engine.checkpoint.config import config_from_json
from qcode.engine.model_config import ModelConfig

CONFIGS = TESTS / "published_configs"
FEW_EXPERTS = 16
"""The tests' own encoder of FP8 goes value by value, and takes minutes for hundreds of experts."""
[FP8] = [form for form in FORMATS if form.name == "fp8-blocks-128"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedModel:
    """`config` is the content of its config.json, `quantization` what that says of its weights."""

    model: str
    config: Config
    generation: Mapping[str, object]
    quantization: Mapping[str, object]
    parameters: int
    config_is_the_published_file: bool

    @property
    def title(self) -> str:
        return self.model.partition("/")[2]

    @property
    def has_real_weights(self) -> bool:
        """Whether a file of it is run beside llama.cpp."""
        return any(
            self.title.lower().startswith(file.removesuffix(".gguf")) for file in file_names()
        )

    def parsed(self) -> ModelConfig:
        config = dict(self.config)
        if self.quantization:
            config["quantization_config"] = dict(self.quantization)
        return config_from_json(config, self.generation, self.model)


def published_models() -> list[PublishedModel]:
    """In the order of the file names, which puts the sizes of a series together."""
    records = [json.loads(file.read_text()) for file in sorted(CONFIGS.glob("*.json"))]
    models = [
        PublishedModel(
            model=record["model"],
            config=record["config"],
            generation=record.get("generation_config", {}),
            quantization=record.get("quantization_config", {}),
            parameters=record["parameters"],
            config_is_the_published_file=record["config_is_the_published_file"],
        )
        for record in records
    ]
    return sorted(models, key=lambda item: (item.config["model_type"], item.parameters))


def reference_parameters(model: PublishedModel) -> int:
    """How many parameters transformers' network of this config has, none of them allocated."""
    config = AutoConfig.for_model(**model.config)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(config)
    return sum(parameter.numel() for parameter in network.parameters())


def scaled_down(config: Config) -> Config:
    """The same network, narrower and with few layers: kept are the heads, the experts and how many
    of them are chosen, rotation, norms, biases, ties and the order of layer kinds."""
    heads = config["num_attention_heads"]
    changes: Config = {
        "num_hidden_layers": config.get("full_attention_interval", 2),
        "hidden_size": 64 if "head_dim" in config else 16 * heads,
        "intermediate_size": 96,
        "vocab_size": 400,
    }
    for key in ("moe_intermediate_size", "shared_expert_intermediate_size"):
        if config.get(key):
            changes[key] = 32
    kept = {key: value for key, value in config.items() if not key.endswith("_token_id")}
    return kept | changes


def scaled_down_error(model: PublishedModel, folder: Path) -> float:
    """The largest error of the logits over all the ways of `check_checkpoint`; a model that is
    published in FP8 is written in FP8."""
    config = scaled_down(model.config)
    family = cast("Family", config.pop("model_type"))
    if not model.quantization:
        path = write_safetensors(folder / "model", family, **config)
        return max(check_checkpoint(path).values())
    config["num_experts"] = min(config["num_experts"], FEW_EXPERTS)
    written = write_quantized(folder / "model", family, FP8, **config)
    unpacked = write_safetensors(folder / "unpacked", family, weights=written.decoded, **config)
    return max(check_checkpoint(written.directory, unpacked).values())
