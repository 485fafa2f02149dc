"""`qcode model optimize`: a model's weights, packed once for all starts to come."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qcode.cli.exit_codes import INTERRUPTED
from qcode.cli.installed_models import installed_path
from qcode.cli.model_flags import ModelArgument
from qcode.cli.quantities import bytes_text
from qcode.config.locations import Locations
from qcode.engine.options import PackedWeightsOptions
from qcode.engine.store.model_store import InstalledModel
from qcode.frontends.progress import Progress
from qcode.protocol.errors import EngineError, ModelStoreError
from qcode.sandbox.terminal_text import printable

if TYPE_CHECKING:
    from qcode.engine.models.packing import PackedModel


def optimize(
    model: ModelArgument,
    beside: Annotated[
        bool,
        typer.Option("--beside", help="Put the file beside the model, not among cached ones."),
    ] = False,
) -> None:
    """Pack a GGUF model's weights for this machine, so that it loads at once.

    The file is about as large as the model, which stays and is still needed. Models that were
    fetched with `qcode model pull` have it already. One that is there is read and checked, and
    written anew if it is damaged.
    """
    path = installed_path(model)
    began = time.monotonic()
    progress = Progress(sys.stderr, live=sys.stderr.isatty())
    try:
        written = pack(path, beside=beside, progress=progress)
    except KeyboardInterrupt:
        print("\nStopped. The same command begins again.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    print(printable(str(written.path)))
    if written.is_new:
        print(f"{bytes_text(written.num_bytes)}, {time.monotonic() - began:.0f} s")
    else:
        print(f"{bytes_text(written.num_bytes)}, was there and is right")


def pack(path: Path, *, beside: bool, progress: Progress) -> PackedModel:
    """Raises EngineError, ModelStoreError."""
    progress.live_line("packing the weights")
    # Loads torch.
    from qcode.engine.models.packing import pack_model

    locations = Locations.from_environment(os.environ)
    options = PackedWeightsOptions(directory=locations.packed_weights, managed=locations.models)
    try:
        return pack_model(
            path,
            options,
            beside=beside,
            progress=lambda share: progress.live_line(f"packing the weights: {share:.0%}"),
        )
    finally:
        progress.clear_live()


def pack_after_pull(model: InstalledModel) -> None:
    """So that the first start is as quick as all others. A model that cannot be packed here runs
    without; that the disk is too small for it is told."""
    if model.path.suffix != ".gguf" or not _has_kernels():
        return
    progress = Progress(sys.stderr, live=sys.stderr.isatty())
    try:
        written = pack(model.path, beside=True, progress=progress)
    except EngineError:
        return
    except ModelStoreError as error:
        progress.line(f"  {error.message} The model loads more slowly without them.")
        return
    progress.line(f"  packed for this machine: {bytes_text(written.num_bytes)} more on disk")


def _has_kernels() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    from qcode.engine.kernels.library import installed

    return installed() is not None
