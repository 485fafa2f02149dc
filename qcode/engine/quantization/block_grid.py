"""Numbers that each hold for one block of a matrix: its scales, or its zero points."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from qcode.engine.quantization.bit_packing import unpack
from qcode.engine.quantization.fp8 import FP8_DTYPES, decode_fp8
from qcode.engine.quantization.stored_module import StoredModule, StoredTensor

SCALE_DTYPES = frozenset(
    {
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e8m0fnu,
        torch.uint8,
    }
)
INDEX_DTYPES = frozenset({torch.int32, torch.int64})

Block = tuple[int, int]
"""Rows and columns that share a number; blocks at the right and lower edge may be partial."""


def as_float(numbers: Tensor) -> Tensor:
    """Scales and zero points in whatever dtype files hold them -> float32.

    Unsigned bytes are E8M0, powers of two.
    """
    if numbers.dtype == torch.uint8:
        numbers = numbers.view(torch.float8_e8m0fnu)
    return decode_fp8(numbers) if numbers.dtype in FP8_DTYPES else numbers.float()


def block_of(stored: StoredTensor, shape: tuple[int, int], blocks: Iterable[Block]) -> Block | None:
    """Which blocks of a matrix `shape` [out, in] a tensor has one number each for.

    One number holds for the whole matrix, [out] or [out, 1] for each row; any other layout must
    be that of one of `blocks`. None where it is not.
    """
    out_features, in_features = shape
    if stored.num_values == 1:
        return shape
    if stored.shape in ((out_features,), (out_features, 1)):
        return 1, in_features
    for rows, columns in blocks:
        if stored.shape == (-(-out_features // rows), -(-in_features // columns)):
            return rows, columns
    return None


class BlockGrid:
    """One number for each block of a matrix."""

    __slots__ = ("_block", "_columns", "numbers")

    def __init__(self, numbers: Tensor, block: Block, columns: Tensor | None = None) -> None:
        """`numbers` hold one value for each block, in row-major order; they are kept as stored.

        `columns` [in] gives the block column of each column of the matrix where neighbours do
        not share one.
        """
        self.numbers = numbers
        self._block = block
        self._columns = columns

    @property
    def stored(self) -> tuple[Tensor, ...]:
        """What the grid keeps: its numbers, and the block column of each column if there is one."""
        return (self.numbers,) if self._columns is None else (self.numbers, self._columns)

    def multiply_(self, values: Tensor, rows: slice | Tensor) -> None:
        """Multiply `values` [n, in], which are `rows` of the matrix, in place."""
        self._apply(torch.Tensor.mul_, values, rows)

    def subtract_from_(self, values: Tensor, rows: slice | Tensor) -> None:
        """Subtract from `values` [n, in], which are `rows` of the matrix, in place."""
        self._apply(torch.Tensor.sub_, values, rows)

    def _apply(
        self,
        operation: Callable[[Tensor, Tensor], Tensor],
        values: Tensor,
        rows: slice | Tensor,
    ) -> None:
        of_rows = self._of_rows(rows)
        num_rows, num_columns = values.shape
        block_columns = self._block[1]
        if self._columns is not None:
            operation(values, of_rows.index_select(1, self._columns))
        elif of_rows.shape[1] == 1:
            operation(values, of_rows)
        elif num_columns % block_columns == 0:
            blocks = values.view(num_rows, of_rows.shape[1], block_columns)
            operation(blocks, of_rows[:, :, None])
        else:
            operation(values, of_rows.repeat_interleave(block_columns, 1)[:, :num_columns])

    def _of_rows(self, rows: slice | Tensor) -> Tensor:
        """[n, block columns] float32, or [1, 1] where one number holds for all."""
        if self.numbers.numel() == 1:
            return as_float(self.numbers.reshape(1, 1))
        grid = self.numbers if self.numbers.dim() == 2 else self.numbers[:, None]
        block_rows = self._block[0]
        if block_rows == 1:
            return as_float(grid[rows])
        return as_float(grid[row_ids(rows, grid.device) // block_rows])


class PackedGrid(BlockGrid):
    """Small integers for groups within rows, packed along the rows of the grid."""

    __slots__ = ("_bits", "_offset")

    def __init__(
        self, words: Tensor, block: Block, columns: Tensor | None, *, bits: int, offset: int
    ) -> None:
        """words [W, block columns] int32; a number is what is stored plus `offset`."""
        super().__init__(words, block, columns)
        self._bits = bits
        self._offset = offset

    def _of_rows(self, rows: slice | Tensor) -> Tensor:
        ids = row_ids(rows, self.numbers.device)
        return unpack(self.numbers, self._bits, ids, dim=0).float() + self._offset


def row_ids(rows: slice | Tensor, device: torch.device) -> Tensor:
    """[n] int64: the rows of a slice with both ends, or an index as it is."""
    return torch.arange(rows.start, rows.stop, device=device) if isinstance(rows, slice) else rows


def scale_block(
    module: StoredModule, part: str, shape: tuple[int, int], blocks: Iterable[Block]
) -> Block:
    """Which blocks of a matrix `shape` [out, in] the tensor `part` has scales for.

    Raises CheckpointError where its layout is none of those `block_of` knows, and for a scale
    that is not a finite number. Scales of groups within rows are not read for that, they are too
    many: what such a scale stands for becomes NaN, as in an unpacked matrix that holds NaN.
    """
    stored = module.require(part, SCALE_DTYPES)
    block = block_of(stored, shape, blocks)
    if block is None:
        known = " or ".join(f"{rows}x{columns}" for rows, columns in blocks) or "none"
        module.fail(
            part,
            f"is {list(stored.shape)}, which does not fit a matrix of {list(shape)} and the "
            f"block sizes of the configuration ({known})",
        )
    few = block[0] > 1 or block[1] == shape[1]
    if few and not as_float(stored.read()).isfinite().all():
        module.fail(part, "holds a scale that is not a finite number")
    return block


def group_index(module: StoredModule, part: str, in_features: int, num_groups: int) -> Tensor:
    """[in]: the group of each column. Raises CheckpointError for one that does not exist."""
    index = module.require(part, INDEX_DTYPES, (in_features,)).read()
    if int(index.min()) < 0 or int(index.max()) >= num_groups:
        module.fail(part, f"names a group that is not among the {num_groups} there are")
    return index.to(module.device)
