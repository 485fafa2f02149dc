"""The flags that several `qcode model` commands take, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from qcode.assembly.backend import packed_weights
from qcode.assembly.opening import load_settings
from qcode.config.options import RunOptions
from qcode.engine.options import KV_DTYPES, EngineOptions, KVDtypeName

ModelArgument = Annotated[
    str, typer.Argument(help="An installed model, a .gguf file or a checkpoint.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
KVDtypeFlag = Annotated[
    KVDtypeName,
    typer.Option("--kv-dtype", help="How keys and values are kept; fp8 and int8 take half."),
]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DtypeFlag = Annotated[Dtype, typer.Option("--dtype", help="What is computed in.")]
ThreadsFlag = Annotated[
    int | None, typer.Option("--threads", min=1, help="As many as there are cores if not given.")
]


def engine_options(
    *, context: int | None, kv_dtype: KVDtypeName, dtype: Dtype, threads: int | None
) -> EngineOptions:
    return EngineOptions(
        context_window=context,
        kv_dtype=KV_DTYPES[kv_dtype],
        dtype=dtype,
        num_threads=threads,
        packed_weights=packed_weights(load_settings(RunOptions(cwd=Path.cwd())).settings),
    )
