"""Constants of the GGUF format, versions 2 and 3 (ggml/docs/gguf.md and ggml.h of llama.cpp 0.5.0)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_NAME = 64  # GGML_MAX_NAME, with the terminator
MAX_DIMS = 4  # GGML_MAX_DIMS


class ValueType(IntEnum):
    """Types of metadata values (`enum gguf_type`)."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


# struct codes of the types that have a fixed size
CODES = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}


@dataclass(frozen=True)
class StorageType:
    """How a tensor is stored (`enum ggml_type`).

    Attributes:
        name: Upstream's name.
        block: Elements in a block; a row is a whole number of blocks.
        nbytes: Bytes in a block.
    """

    name: str
    block: int
    nbytes: int


STORAGE_TYPES = {
    number: StorageType(*entry)
    for number, entry in {
        0: ("f32", 1, 4),
        1: ("f16", 1, 2),
        2: ("q4_0", 32, 18),
        3: ("q4_1", 32, 20),
        6: ("q5_0", 32, 22),
        7: ("q5_1", 32, 24),
        8: ("q8_0", 32, 34),
        9: ("q8_1", 32, 36),
        10: ("q2_K", 256, 84),
        11: ("q3_K", 256, 110),
        12: ("q4_K", 256, 144),
        13: ("q5_K", 256, 176),
        14: ("q6_K", 256, 210),
        15: ("q8_K", 256, 292),
        16: ("iq2_xxs", 256, 66),
        17: ("iq2_xs", 256, 74),
        18: ("iq3_xxs", 256, 98),
        19: ("iq1_s", 256, 50),
        20: ("iq4_nl", 32, 18),
        21: ("iq3_s", 256, 110),
        22: ("iq2_s", 256, 82),
        23: ("iq4_xs", 256, 136),
        24: ("i8", 1, 1),
        25: ("i16", 1, 2),
        26: ("i32", 1, 4),
        27: ("i64", 1, 8),
        28: ("f64", 1, 8),
        29: ("iq1_m", 256, 56),
        30: ("bf16", 1, 2),
        34: ("tq1_0", 256, 54),
        35: ("tq2_0", 256, 66),
        39: ("mxfp4", 32, 17),
        40: ("nvfp4", 64, 36),
        41: ("q1_0", 128, 18),
        42: ("q2_0", 64, 18),
    }.items()
}
