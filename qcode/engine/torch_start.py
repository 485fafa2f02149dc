"""Makes a process that is about to import torch do so sooner.

torch's libraries are 460 MB to be mapped and relocated, a quarter of what its import takes. A
thread of their own loads them while the interpreter imports the rest.

Parts of torch that inference seems to need nothing of are not left out: they turn out to be needed
after all. Without `torch._meta_registrations`, for one, no `torch.Generator` can be made.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

LIBRARIES = ("libtorch_global_deps.so", "libtorch_python.so")
"""In the order in which torch loads them: the names of the first one are for all others."""


def hasten_torch() -> None:
    """Call this as early as it is known that torch will be imported. Returns at once."""
    if sys.platform != "linux" or "torch" in sys.modules:
        return
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent / "lib"
            threading.Thread(
                target=_load_libraries, args=(folder,), name="torch libraries", daemon=True
            ).start()


def _load_libraries(folder: Path) -> None:
    # ctypes.CDLL would hold Python's lock meanwhile; a foreign function called through it does not.
    # What fails here is reported by torch's own import.
    with suppress(OSError, AttributeError):
        load = ctypes.CDLL(None).dlopen
        load.restype = ctypes.c_void_p
        load.argtypes = (ctypes.c_char_p, ctypes.c_int)
        names, library = (bytes(folder / name) for name in LIBRARIES)
        if load(names, os.RTLD_NOW | os.RTLD_GLOBAL):
            load(library, os.RTLD_NOW)
