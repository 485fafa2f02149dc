"""Writes a model as one GGUF file."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import prod
from pathlib import Path

from torch import Tensor

from qcode.engine.checkpoint.gguf import GgufTensor
from qcode.engine.checkpoint.gguf_checkpoint import GgufCheckpoint
from qcode.engine.checkpoint.gguf_writer import GgufLayout
from qcode.engine.checkpoint.names import gguf_name
from qcode.engine.checkpoint.positioned_file import PositionedFile
from qcode.engine.conversion.formats import OutputFormat, ggml_type_of
from qcode.engine.conversion.gguf_metadata import copied_metadata, metadata_of_directory
from qcode.engine.conversion.jobs import Job, row_ranges
from qcode.engine.conversion.network_tensors import NetworkTensor, parted_projections
from qcode.engine.conversion.source import MatrixRows, SourceModel, float_rows
from qcode.engine.quantization.block_layouts import GgmlType
from qcode.engine.quantization.ggml_encoders import NotEncodable, encode
from qcode.protocol.errors import CheckpointError


class GgufTarget:
    """What the file will be, before anything is written."""

    def __init__(self, source: SourceModel, output: OutputFormat) -> None:
        self._source = source
        config = source.checkpoint.config
        self._tensors = source.tensors
        if config.linear_attention:
            self._tensors = tuple(parted_projections(source.tensors, config.linear_attention))

        def kind(tensor: NetworkTensor) -> GgmlType:
            if tensor.kind == "values":
                return GgmlType.F32
            return ggml_type_of(
                output,
                tensor.name,
                tensor.shape[-1],
                num_layers=config.num_layers,
                tied=config.tie_word_embeddings,
            )

        if isinstance(source.checkpoint, GgufCheckpoint):
            metadata = copied_metadata(source.checkpoint.file.metadata, output.file_type)
        else:
            metadata = metadata_of_directory(source.checkpoint, output.file_type)
        self._layout = GgufLayout(
            metadata,
            [(self._name(tensor), tensor.shape, kind(tensor)) for tensor in self._tensors],
        )
        self.num_bytes = self._layout.num_bytes

    def create(self, path: Path) -> PositionedFile:
        """Writes the header too. Raises OSError."""
        file = PositionedFile(path, self.num_bytes)
        file.write(0, self._layout.header)
        return file

    def jobs(self, file: PositionedFile) -> Iterator[Job]:
        """They raise CheckpointError for values that cannot be encoded, and OSError."""
        for tensor in self._tensors:
            place = self._layout.tensors[self._name(tensor)]
            if tensor.kind == "values":
                yield self._values_job(file, tensor, place)
            else:
                yield from self._matrix_jobs(file, tensor, place)

    def _name(self, tensor: NetworkTensor) -> str:
        return gguf_name(tensor.name, self._source.checkpoint.config.architecture)

    def _values_job(self, file: PositionedFile, tensor: NetworkTensor, place: GgufTensor) -> Job:
        def run() -> None:
            self._encode_to(file, place, place.offset, self._source.values(tensor))

        return Job(num_values=place.num_bytes // 4, run=run)

    def _matrix_jobs(
        self, file: PositionedFile, tensor: NetworkTensor, place: GgufTensor
    ) -> Iterator[Job]:
        if self._is_stored_as(place):
            yield from self._copy_jobs(file, place)
            return
        *_, rows, width = tensor.shape
        row_bytes = place.num_bytes // prod(tensor.shape[:-1])
        offset = place.offset
        for matrix in self._source.matrices(tensor):
            for start, stop in row_ranges(rows, width):
                encode_rows = partial(self._encode, file, matrix, (start, stop), place, offset)
                yield Job(num_values=(stop - start) * width, run=encode_rows)
                offset += (stop - start) * row_bytes

    def _encode(
        self,
        file: PositionedFile,
        matrix: MatrixRows,
        rows: tuple[int, int],
        place: GgufTensor,
        offset: int,
    ) -> None:
        self._encode_to(file, place, offset, float_rows(matrix, *rows))

    def _encode_to(
        self, file: PositionedFile, place: GgufTensor, offset: int, values: Tensor
    ) -> None:
        kind = GgmlType(place.ggml_type)
        try:
            file.write(offset, encode(values, kind))
        except NotEncodable as error:
            raise CheckpointError(
                f"{self._source.checkpoint.path}: {place.name!r} cannot be stored as {kind.name}: "
                f"it holds {error}"
            ) from error

    def _is_stored_as(self, place: GgufTensor) -> bool:
        """Whether the source holds the very bytes that are wanted."""
        checkpoint = self._source.checkpoint
        if not isinstance(checkpoint, GgufCheckpoint):
            return False
        stored = checkpoint.file.tensors.get(place.name)
        return stored is not None and stored.ggml_type == place.ggml_type

    def _copy_jobs(self, file: PositionedFile, place: GgufTensor) -> Iterator[Job]:
        checkpoint = self._source.checkpoint
        assert isinstance(checkpoint, GgufCheckpoint)
        raw = checkpoint.file.raw(place.name)
        num_values = prod(place.shape)
        for start, stop in row_ranges(place.num_bytes, 1):
            part = partial(file.write, place.offset + start, raw[start:stop])
            yield Job(num_values=num_values * (stop - start) // place.num_bytes, run=part)
