"""From a path to everything needed to run a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from qcode.engine.checkpoint.gguf_checkpoint import GgufCheckpoint
from qcode.engine.checkpoint.json_file import read_json
from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.checkpoint.safetensors_checkpoint import SafetensorsCheckpoint
from qcode.engine.checkpoint.vocabulary import vocabulary_from_directory, vocabulary_from_gguf
from qcode.engine.kernels.library import installed
from qcode.engine.model_config import ModelConfig
from qcode.engine.models.network import Network
from qcode.engine.models.qwen3 import Qwen3
from qcode.engine.models.qwen3_next import Qwen3Next
from qcode.engine.options import PackedWeightsOptions
from qcode.engine.store.packed_models import PackedPlace, packed_place, write_in_background
from qcode.engine.tokenizer import Tokenizer
from qcode.protocol.errors import CheckpointError

END_TOKENS = ("<|im_end|>", "<|endoftext|>")
"""Every model of the family ends an answer with one of these, whichever its config names."""

MAX_TEMPLATE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A network with its weights, and what belongs to it."""

    model: Network
    tokenizer: Tokenizer
    config: ModelConfig
    chat_template: str | None
    """The Jinja template the checkpoint brings; untrusted."""
    check_files: Callable[[], None]
    """Raises CheckpointError when a file of the weights has been cut; call it before each step."""
    notices: tuple[str, ...] = ()
    """Lines for the person."""


def load_model(
    path: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    exact: bool = False,
    configure: Callable[[ModelConfig], ModelConfig] | None = None,
    progress: Callable[[float], None] | None = None,
    packed: PackedWeightsOptions | None = None,
) -> LoadedModel:
    """Load a GGUF file or a directory of safetensors; `progress` is told fractions up to 1.

    `exact` asks for products in float32 maths where faster ones would round their input.
    `configure` may change what the checkpoint says, or refuse it, before any weight is read.
    `packed` says where packed weights may be, ready to be mapped; without it they are not used.

    Raises CheckpointError for a damaged or contradictory checkpoint, UnsupportedModel.
    """
    checkpoint = open_checkpoint(path, dtype=dtype, device=device, exact=exact)
    if configure is not None:
        checkpoint.config = configure(checkpoint.config)
    packing = _Packing(checkpoint, packed)
    # Packing weights is native code without Python's lock: the vocabulary is read meanwhile.
    with ThreadPoolExecutor(1) as side, _reads_of(checkpoint):
        tokenizer = side.submit(load_tokenizer, checkpoint)
        network = network_class(checkpoint.config)
        model = network(checkpoint, dtype=dtype, device=torch.device(device), progress=progress)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer.result(),
        config=checkpoint.config,
        chat_template=read_chat_template(checkpoint),
        check_files=checkpoint.check_files,
        notices=packing.finish(),
    )


class _Packing:
    """The file of packed weights of a model that is being loaded: used, or else written."""

    def __init__(
        self,
        checkpoint: GgufCheckpoint | SafetensorsCheckpoint,
        options: PackedWeightsOptions | None,
    ) -> None:
        self._place: PackedPlace | None = None
        self._library = installed()
        if options is None or self._library is None or not isinstance(checkpoint, GgufCheckpoint):
            return
        self._checkpoint = checkpoint
        if checkpoint.can_pack:
            self._place = packed_place(checkpoint.path, self._library, options)
        if self._place is not None:
            checkpoint.packed, self._reason = self._place.open()

    def finish(self) -> tuple[str, ...]:
        """After the network has its weights. Returns lines for the person."""
        place, library = self._place, self._library
        if place is None or library is None:
            return ()
        matrices, self._checkpoint.packable = self._checkpoint.packable, []
        if place.is_managed and matrices:
            write_in_background(place, matrices, library)
            advice = "It is written anew."
        else:
            advice = f"Write it anew: qcode model optimize {self._checkpoint.path}"
        return (f"{self._reason}. {advice}",) if self._reason else ()


def network_class(config: ModelConfig) -> type[Qwen3 | Qwen3Next]:
    """The network that can hold a checkpoint with this config."""
    return Qwen3Next if config.architecture == "qwen3_next" else Qwen3


def _reads_of(
    checkpoint: GgufCheckpoint | SafetensorsCheckpoint,
) -> AbstractContextManager[None]:
    """The system is told what will be read. Of a GGUF file that is everything, in order."""
    return nullcontext() if isinstance(checkpoint, GgufCheckpoint) else checkpoint.scattered_reads()


def load_tokenizer(checkpoint: GgufCheckpoint | SafetensorsCheckpoint) -> Tokenizer:
    """Raises CheckpointError, UnsupportedModel."""
    if isinstance(checkpoint, GgufCheckpoint):
        vocabulary = vocabulary_from_gguf(checkpoint.file.metadata, str(checkpoint.path))
    else:
        vocabulary = vocabulary_from_directory(checkpoint.path)
    ends = (vocabulary.special_tokens.get(text) for text in END_TOKENS)
    eos_ids = checkpoint.config.generation.eos_ids.union(end for end in ends if end is not None)
    tokenizer = Tokenizer(vocabulary, eos_ids=eos_ids)
    if tokenizer.num_tokens > checkpoint.config.vocab_size:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer has {tokenizer.num_tokens} tokens but the "
            f"embedding only {checkpoint.config.vocab_size}"
        )
    return tokenizer


def read_chat_template(checkpoint: GgufCheckpoint | SafetensorsCheckpoint) -> str | None:
    """The Jinja template the checkpoint brings; untrusted."""
    if isinstance(checkpoint, GgufCheckpoint):
        return _text(checkpoint.file.metadata.get("tokenizer.chat_template"))
    file = checkpoint.path / "chat_template.jinja"
    if file.is_file() and file.stat().st_size <= MAX_TEMPLATE_BYTES:
        return file.read_text("utf-8", errors="replace")
    config: Mapping[str, object] = read_json(
        checkpoint.path / "tokenizer_config.json", optional=True
    )
    return _text(config.get("chat_template"))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
