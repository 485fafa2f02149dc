"""`quantize_checkpoint`: a model in another number format, in bounded memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qcode.engine.checkpoint.open import open_checkpoint
from qcode.engine.conversion.formats import FORMATS, OutputFormat
from qcode.engine.conversion.gguf_target import GgufTarget
from qcode.engine.conversion.jobs import one_thread_a_core, run_jobs
from qcode.engine.conversion.safetensors_target import SafetensorsTarget
from qcode.engine.conversion.source import SourceModel, source_model
from qcode.protocol.errors import EngineError

GGUF_SUFFIX = ".gguf"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedModel:
    """What was written."""

    path: Path
    num_bytes: int
    num_parameters: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.num_bytes / self.num_parameters


def quantize_checkpoint(
    source: Path,
    target: Path,
    format_name: str,
    *,
    replace: bool = False,
    progress: Callable[[float], None] = lambda fraction: None,
) -> QuantizedModel:
    """Write the model at `source` to `target` in one of FORMATS.

    A target that ends in .gguf becomes a file, any other a folder. It appears under its name when
    it is whole, and takes the place of another model only with `replace`. `progress` is told
    fractions up to 1.

    Raises EngineError where the target or the disk does not suit; CheckpointError and
    UnsupportedModel for the source.
    """
    output = _output_format(format_name, target)
    _check_target(source, target, replace=replace)
    model = source_model(open_checkpoint(source, exact=True))
    plan = _plan(model, output, target)
    _check_space(target, plan.num_bytes)
    temporary = target.with_name(f"{target.name}.partial-{os.getpid()}")
    with _removed_on_failure(temporary), _disk_errors(target):
        _write(plan, model, temporary, progress)
        _check_target(source, target, replace=replace)  # minutes have passed
        if target.is_dir():
            _remove(target)
        temporary.replace(target)
    return QuantizedModel(
        path=target,
        num_bytes=plan.num_bytes,
        num_parameters=model.checkpoint.config.num_parameters,
    )


def _output_format(name: str, target: Path) -> OutputFormat:
    output = FORMATS.get(name)
    if output is None:
        raise EngineError(f"there is no format {name!r}", f"Choose one of: {', '.join(FORMATS)}.")
    is_gguf = target.suffix == GGUF_SUFFIX
    if is_gguf and output.ggml_type is None:
        raise EngineError(
            f"{name} is a format of safetensors, not of GGUF",
            f"Name a folder to write, without {GGUF_SUFFIX} at the end.",
        )
    if not is_gguf and output.dtype is None:
        raise EngineError(
            f"{name} is a format of GGUF files", f"Let the target end in {GGUF_SUFFIX}."
        )
    return output


def _check_target(source: Path, target: Path, *, replace: bool) -> None:
    if source.resolve() == target.resolve():
        raise EngineError(f"{target}: a model cannot be written over itself")
    if not target.parent.is_dir():
        raise EngineError(f"{target.parent}: no such folder")
    if not target.exists() and not target.is_symlink():
        return
    if not replace:
        raise EngineError(f"{target}: exists already", "Name another target, or give --force.")
    is_model = target.is_file() or (target / "config.json").is_file()
    if not is_model or source.resolve().is_relative_to(target.resolve()):
        raise EngineError(f"{target}: is not a model that could be replaced")


def _plan(model: SourceModel, output: OutputFormat, target: Path) -> GgufTarget | SafetensorsTarget:
    if target.suffix == GGUF_SUFFIX:
        return GgufTarget(model, output)
    return SafetensorsTarget(model, output)


def _check_space(target: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if free < num_bytes:
        raise EngineError(
            f"not enough disk space for {target}: {num_bytes / 1e9:.2f} GB needed, "
            f"{free / 1e9:.2f} GB free"
        )


def _write(
    plan: GgufTarget | SafetensorsTarget,
    model: SourceModel,
    path: Path,
    progress: Callable[[float], None],
) -> None:
    total = model.num_values
    # The files close after the threads have ended: none may write to a closed one.
    if isinstance(plan, GgufTarget):
        with plan.create(path) as file, one_thread_a_core() as threads:
            jobs = plan.jobs(file)
            run_jobs(jobs, threads, lambda done: progress(done / total), model.release)
    else:
        with plan.create(path) as files, one_thread_a_core() as threads:
            jobs = plan.jobs(files)
            run_jobs(jobs, threads, lambda done: progress(done / total), model.release)


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _remove(path)
        raise


@contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EngineError(f"{target}: cannot be written: {error.strerror}") from error


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
