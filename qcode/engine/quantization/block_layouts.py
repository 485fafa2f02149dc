"""How ggml cuts rows into blocks: one layout for each of its type ids, read by us or not.

The sizes are those of `ggml.h` and `ggml-common.h`.
"""

from dataclasses import dataclass
from enum import IntEnum


class GgmlType(IntEnum):
    """Type ids in a GGUF tensor table that we can read."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ4_NL = 20
    IQ4_XS = 23
    BF16 = 30
    MXFP4 = 39


@dataclass(frozen=True, slots=True)
class BlockLayout:
    """`block_bytes` bytes hold `block_size` neighbouring elements of a row."""

    name: str
    block_size: int
    block_bytes: int


BLOCK_LAYOUTS = {
    0: BlockLayout("F32", 1, 4),
    1: BlockLayout("F16", 1, 2),
    2: BlockLayout("Q4_0", 32, 18),
    3: BlockLayout("Q4_1", 32, 20),
    6: BlockLayout("Q5_0", 32, 22),
    7: BlockLayout("Q5_1", 32, 24),
    8: BlockLayout("Q8_0", 32, 34),
    9: BlockLayout("Q8_1", 32, 36),
    10: BlockLayout("Q2_K", 256, 84),
    11: BlockLayout("Q3_K", 256, 110),
    12: BlockLayout("Q4_K", 256, 144),
    13: BlockLayout("Q5_K", 256, 176),
    14: BlockLayout("Q6_K", 256, 210),
    15: BlockLayout("Q8_K", 256, 292),
    16: BlockLayout("IQ2_XXS", 256, 66),
    17: BlockLayout("IQ2_XS", 256, 74),
    18: BlockLayout("IQ3_XXS", 256, 98),
    19: BlockLayout("IQ1_S", 256, 50),
    20: BlockLayout("IQ4_NL", 32, 18),
    21: BlockLayout("IQ3_S", 256, 110),
    22: BlockLayout("IQ2_S", 256, 82),
    23: BlockLayout("IQ4_XS", 256, 136),
    24: BlockLayout("I8", 1, 1),
    25: BlockLayout("I16", 1, 2),
    26: BlockLayout("I32", 1, 4),
    27: BlockLayout("I64", 1, 8),
    28: BlockLayout("F64", 1, 8),
    29: BlockLayout("IQ1_M", 256, 56),
    30: BlockLayout("BF16", 1, 2),
    34: BlockLayout("TQ1_0", 256, 54),
    35: BlockLayout("TQ2_0", 256, 66),
    39: BlockLayout("MXFP4", 32, 17),
    40: BlockLayout("NVFP4", 64, 36),
}
