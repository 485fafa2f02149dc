"""What this machine offers: device, number formats, memory, cores."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from qcode.engine.memory import available as memory
from qcode.engine.options import EngineOptions, KVDtype
from qcode.protocol.errors import EngineError

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_device(name: str) -> torch.device:
    """Raises `EngineError` for a device that torch does not know or does not see."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise EngineError(f"there is no device {name!r}", "Use auto, cpu or cuda.") from error
    if device.type not in ("cpu", "cuda"):
        raise EngineError(f"the engine does not run on {name!r}", "Use auto, cpu or cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EngineError(
            "no CUDA device can be used here", "Use --device cpu, or install a CUDA torch."
        )
    return device


def activation_dtype(options: EngineOptions, device: torch.device) -> torch.dtype:
    """float32 on the CPU: 16-bit matrix products have no fast path on most of them."""
    if options.dtype != "auto":
        return _DTYPES[options.dtype]
    return torch.float32 if device.type == "cpu" else torch.bfloat16


LONG_CONTEXT = 16_384
"""Tokens. A cache for more than these is what decoding spends its time on reading."""


def cache_dtype(options: EngineOptions, device: torch.device, *, context_window: int) -> KVDtype:
    """What keys and values are kept in; never "auto".

    On the CPU int8 for a window beyond `LONG_CONTEXT`, be it the model's own or asked for: half the
    memory of float16 is read back for each token, and what that costs is hardly measurable (see
    docs/reference/measured.md). Below it float16. Who asks for float32 activations wants to
    compare, so the cache rounds nothing then.
    """
    if options.kv_dtype != "auto":
        return options.kv_dtype
    if device.type == "cpu" and options.dtype == "auto":
        window = min(options.context_window or context_window, context_window)
        return "int8" if window > LONG_CONTEXT else "float16"
    names: dict[torch.dtype, KVDtype] = {
        torch.float32: "float32",
        torch.bfloat16: "bfloat16",
        torch.float16: "float16",
    }
    return names[activation_dtype(options, device)]


def available_bytes(device: torch.device) -> int:
    """Memory of the device that can be taken now without pushing anything else out."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return memory.available_bytes()


def num_physical_cores() -> int:
    """Cores this process may use, hyperthreads not counted: two threads on one core only take
    turns at its multipliers."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    siblings = {_siblings(cpu) for cpu in allowed}
    return max(1, min(len(siblings), _quota_cores()))


def _siblings(cpu: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    return path.read_text().strip() if path.exists() else str(cpu)


def _quota_cores() -> int:
    """The container's share of processor time, in whole cores (cgroup v2 `cpu.max`)."""
    path = Path("/sys/fs/cgroup/cpu.max")
    quota, period = path.read_text().split() if path.exists() else ("max", "100000")
    return max(1, int(quota) // int(period)) if quota != "max" else 2**16
