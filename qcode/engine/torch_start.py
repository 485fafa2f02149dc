"""Makes a process that is about to import torch do so in half the time. For programs only: whoever
uses the engine as a library gets torch as it is.

Two things are done. torch's libraries, 460 MB to be mapped and relocated, are loaded by a thread
of their own, while the interpreter imports the rest. And two of torch's modules, which take half
of the Python it runs and which inference needs nothing of, are put off until something of them is
used: they bring what computes shapes without data, for tensors on the meta device and compilers.

Where the version of torch is not one for which that has been tried, and on any surprise, torch is
imported as usual.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

TRIED_VERSIONS = ("2.13.",)
PUT_OFF = ("torch._meta_registrations", "torch.export")
NEED_THEM = (
    "torch._decomp",
    "torch._dynamo",
    "torch._export",
    "torch._inductor",
    "torch._prims",
    "torch._refs",
    "torch._subclasses",
    "torch.export.",
)
"""Whoever imports something of this, once torch is there, gets first what was put off."""

LIBRARIES = ("libtorch_global_deps.so", "libtorch_python.so")
"""In the order in which torch loads them: the names of the first one are for all others."""


def hasten_torch() -> None:
    """Call this as early as it is known that torch will be imported. Returns at once."""
    folder = _folder_of_torch()
    if folder is None or "torch" in sys.modules:
        return
    if sys.platform == "linux":
        threading.Thread(
            target=_load_libraries, args=(folder / "lib",), name="torch libraries", daemon=True
        ).start()
    if _version(folder).startswith(TRIED_VERSIONS) and not _is_installed():
        sys.meta_path.insert(0, _Finder())


def _folder_of_torch() -> Path | None:
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).parent
    return None


def _version(folder: Path) -> str:
    """Read from the file: the package's metadata take longer to find than all else here."""
    with suppress(OSError, UnicodeDecodeError):
        stated = re.search(r"^__version__ = '([^']+)'", (folder / "version.py").read_text(), re.M)
        return stated[1] if stated else ""
    return ""


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


def _is_installed() -> bool:
    return any(isinstance(finder, _Finder) for finder in sys.meta_path)


def _is_being_imported(name: str) -> bool:
    module = sys.modules.get(name)
    return module is None or bool(getattr(module.__spec__, "_initializing", False))


class _Finder(MetaPathFinder):
    """Finds the modules to be put off, while torch is being imported and no later."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith("torch.") or name == "torch.version":
            return None
        if name in PUT_OFF and _is_being_imported("torch"):
            spec = PathFinder.find_spec(name, path)
            if spec is not None and spec.loader is not None:
                spec.loader = _PutOffLoader(spec.loader)
            return spec
        if not name.startswith(NEED_THEM) or _is_being_imported("torch"):
            return None
        for other in PUT_OFF:
            module = sys.modules.get(other)
            if isinstance(module, _PutOff):
                module.load(wait=False)
        # They may have imported this one meanwhile. A second copy of it must not be made.
        found = sys.modules.get(name)
        if found is None:
            return None
        # Of a module that came while it was looked for, the import system takes its own spec.
        found.__spec__ = ModuleSpec(name, _ThereLoader(found))
        return found.__spec__


class _PutOffLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader: Final = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _PutOff(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        assert isinstance(module, _PutOff)
        object.__setattr__(module, "_put_off_loader", self._loader)


class _ThereLoader(Loader):
    """Of a module that came to be imported while it was looked for."""

    def __init__(self, module: ModuleType) -> None:
        self._module: Final = module
        self._spec: Final = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _PutOff(ModuleType):
    """Becomes the real module, and an ordinary one, when something that only that has is asked
    for. What merely looks at all modules there are asks for `__file__` and the like, which are
    there."""

    def load(self, *, wait: bool = True) -> None:
        """Without `wait`, nothing where another thread is at it: that may need what this one is
        importing."""
        if not _LOCK.acquire(blocking=wait):
            return
        try:
            if type(self) is not _PutOff:
                return  # another thread was first
            loader: Loader = self.__dict__.pop("_put_off_loader")
            object.__setattr__(self, "__class__", ModuleType)
            if self.__spec__ is not None:
                self.__spec__.loader = self.__loader__ = loader
            loader.exec_module(self)
        finally:
            _LOCK.release()

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        self.load()
        return getattr(self, name)


_LOCK = threading.RLock()
