"""Where the packed weights of a model are kept, and how they come there.

A model of our store has them beside its file. Those of another model are in a directory of their
own, unless somebody puts them beside it. Either way the name says of which file they are, and for
which layout of the kernels.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qcode.engine.checkpoint.packed_file import PackedFile, layout_of
from qcode.engine.checkpoint.packed_writer import Matrices, write_packed
from qcode.engine.kernels.library import KernelLibrary
from qcode.engine.memory.prefix_fingerprint import weights_digest
from qcode.engine.options import PackedWeightsOptions
from qcode.engine.store.packed_names import own_path, packed_beside, packed_in, packed_name
from qcode.protocol.errors import CheckpointError, ModelStoreError

logger = logging.getLogger(__name__)

BACKGROUND_NICENESS = 10
_KEY_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPlace:
    """Where one model's packed weights may be, for the kernels of this machine."""

    beside: Path
    elsewhere: Path | None
    layout: str
    source: bytes
    """The digest of the model file, and what tells other versions of it apart."""
    is_managed: bool
    """Whether it is a model of our store."""

    @property
    def target(self) -> Path | None:
        """Where to write them."""
        return self.beside if self.is_managed else self.elsewhere

    def open(self) -> tuple[PackedFile | None, str]:
        """The file, if there is one that can be used; else why the one that is there cannot."""
        reason = ""
        for path in (self.beside, self.elsewhere):
            if path is None or not path.exists():
                continue
            try:
                return PackedFile(path, layout=self.layout, source=self.source), ""
            except CheckpointError as error:
                reason = error.message
        return None, reason


def packed_place(
    model: Path, library: KernelLibrary, options: PackedWeightsOptions
) -> PackedPlace | None:
    """`model` is a GGUF file, or the first part of a split one; None if it cannot be read."""
    model = own_path(model)
    try:
        source = weights_digest(model)
    except OSError:
        return None
    layout = layout_of(library)
    name = packed_name(model, layout)
    managed = options.managed
    return PackedPlace(
        beside=model.with_name(name),
        elsewhere=options.directory / f"{_key(source)}-{name}" if options.directory else None,
        layout=layout,
        source=source,
        is_managed=managed is not None and model.is_relative_to(managed.resolve()),
    )


def write_to(
    place: PackedPlace,
    target: Path,
    matrices: Sequence[Matrices],
    library: KernelLibrary,
    progress: Callable[[float], None] = lambda share: None,
) -> bool:
    """Returns whether it was written; not where another process just did.

    Raises ModelStoreError: no space, or a folder that cannot be written to.
    """

    def is_current() -> bool:
        try:
            PackedFile(target, layout=place.layout, source=place.source)
        except CheckpointError:
            return False
        return True

    try:
        return write_packed(
            target,
            matrices,
            library,
            layout=place.layout,
            source=place.source,
            is_current=is_current,
            progress=progress,
        )
    except OSError as error:
        raise ModelStoreError(
            f"{target}: the packed weights cannot be written: {error.strerror}."
        ) from error


def write_in_background(
    place: PackedPlace, matrices: Sequence[Matrices], library: KernelLibrary
) -> threading.Thread:
    """Beside the model, while it is in use. The thread ends with the process: what is not whole by
    then is begun again by the next one. Failures are logged."""

    def write() -> None:
        with suppress(OSError, AttributeError):  # of this thread only, where the system can
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BACKGROUND_NICENESS)
        try:
            if write_to(place, place.beside, matrices, library):
                logger.info("wrote %s", place.beside)
        except ModelStoreError as error:
            logger.warning("%s", error.message)

    thread = threading.Thread(target=write, name="packed weights", daemon=True)
    thread.start()
    return thread


def packed_files(model: Path, directory: Path) -> list[Path]:
    """All files of packed weights of a model: those beside it, and those that the directory has
    for it as it is now."""
    found = packed_beside(model)
    with suppress(OSError):
        found += packed_in(directory, f"{_key(weights_digest(own_path(model)))}-")
    return found


def _key(source: bytes) -> str:
    return source.hex()[:_KEY_DIGITS]
