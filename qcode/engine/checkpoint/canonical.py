"""Values and shapes that Hugging Face files of the hybrid network store in another form than ours.

Ours is the one the network computes with, and the one GGUF files have: a norm's weight is what
it multiplies by (theirs is the distance from one), the decay is `A` = -exp(A_log), and axes of
size one are left out.
"""

from __future__ import annotations

from torch import Tensor

from qcode.engine.model_config import Architecture


def stored_form(
    architecture: Architecture, name: str, shape: tuple[int, ...]
) -> tuple[str, tuple[int, ...]]:
    """Name and shape in a Hugging Face file of the tensor we call `name` and need as `shape`."""
    if architecture == "qwen3_next":
        if name.endswith(".linear_attn.A"):
            return f"{name}_log", shape
        if name.endswith(".conv1d.weight"):
            channels, kernel_size = shape
            return name, (channels, 1, kernel_size)
        if name.endswith(".shared_expert_gate.weight"):
            return name, (1, *shape)
    return name, shape


def canonical(architecture: Architecture, name: str, stored: Tensor) -> Tensor:
    """What a Hugging Face file holds for the tensor we call `name`, in our form.

    Values that change come in float32, others in the dtype they are stored in.
    """
    if architecture != "qwen3_next":
        return stored
    if name.endswith(".linear_attn.A"):
        return -stored.float().exp()
    if name.endswith(".conv1d.weight"):
        return stored.squeeze(1)
    if name.endswith(".shared_expert_gate.weight"):
        return stored.squeeze(0)
    if name.endswith("norm.weight") and not name.endswith(".linear_attn.norm.weight"):
        return stored.float() + 1
    return stored


def stored_values(architecture: Architecture, name: str, ours: Tensor) -> Tensor:
    """The reverse of `canonical` for values in float32."""
    if architecture != "qwen3_next":
        return ours
    if name.endswith(".linear_attn.A"):
        return (-ours).log()
    if name.endswith(".conv1d.weight"):
        return ours.unsqueeze(1)
    if name.endswith(".shared_expert_gate.weight"):
        return ours.unsqueeze(0)
    if name.endswith("norm.weight") and not name.endswith(".linear_attn.norm.weight"):
        return ours - 1
    return ours
