"""File types: the names under which a whole model is quantised."""

from __future__ import annotations

from enum import Enum

from ..errors import InvalidArgumentError
from ._native import lib, text

_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}  # as upstream's quantize tool has them


class Ftype(Enum):
    """Types of model file that upstream knows (`enum llama_ftype`)."""

    F32 = lib.LLAMA_FTYPE_ALL_F32
    F16 = lib.LLAMA_FTYPE_MOSTLY_F16
    BF16 = lib.LLAMA_FTYPE_MOSTLY_BF16
    Q4_0 = lib.LLAMA_FTYPE_MOSTLY_Q4_0
    Q4_1 = lib.LLAMA_FTYPE_MOSTLY_Q4_1
    Q5_0 = lib.LLAMA_FTYPE_MOSTLY_Q5_0
    Q5_1 = lib.LLAMA_FTYPE_MOSTLY_Q5_1
    Q8_0 = lib.LLAMA_FTYPE_MOSTLY_Q8_0
    Q2_K = lib.LLAMA_FTYPE_MOSTLY_Q2_K
    Q2_K_S = lib.LLAMA_FTYPE_MOSTLY_Q2_K_S
    Q3_K_S = lib.LLAMA_FTYPE_MOSTLY_Q3_K_S
    Q3_K_M = lib.LLAMA_FTYPE_MOSTLY_Q3_K_M
    Q3_K_L = lib.LLAMA_FTYPE_MOSTLY_Q3_K_L
    Q4_K_S = lib.LLAMA_FTYPE_MOSTLY_Q4_K_S
    Q4_K_M = lib.LLAMA_FTYPE_MOSTLY_Q4_K_M
    Q5_K_S = lib.LLAMA_FTYPE_MOSTLY_Q5_K_S
    Q5_K_M = lib.LLAMA_FTYPE_MOSTLY_Q5_K_M
    Q6_K = lib.LLAMA_FTYPE_MOSTLY_Q6_K
    IQ1_S = lib.LLAMA_FTYPE_MOSTLY_IQ1_S
    IQ1_M = lib.LLAMA_FTYPE_MOSTLY_IQ1_M
    IQ2_XXS = lib.LLAMA_FTYPE_MOSTLY_IQ2_XXS
    IQ2_XS = lib.LLAMA_FTYPE_MOSTLY_IQ2_XS
    IQ2_S = lib.LLAMA_FTYPE_MOSTLY_IQ2_S
    IQ2_M = lib.LLAMA_FTYPE_MOSTLY_IQ2_M
    IQ3_XXS = lib.LLAMA_FTYPE_MOSTLY_IQ3_XXS
    IQ3_XS = lib.LLAMA_FTYPE_MOSTLY_IQ3_XS
    IQ3_S = lib.LLAMA_FTYPE_MOSTLY_IQ3_S
    IQ3_M = lib.LLAMA_FTYPE_MOSTLY_IQ3_M
    IQ4_NL = lib.LLAMA_FTYPE_MOSTLY_IQ4_NL
    IQ4_XS = lib.LLAMA_FTYPE_MOSTLY_IQ4_XS
    TQ1_0 = lib.LLAMA_FTYPE_MOSTLY_TQ1_0
    TQ2_0 = lib.LLAMA_FTYPE_MOSTLY_TQ2_0
    MXFP4_MOE = lib.LLAMA_FTYPE_MOSTLY_MXFP4_MOE
    NVFP4 = lib.LLAMA_FTYPE_MOSTLY_NVFP4
    Q1_0 = lib.LLAMA_FTYPE_MOSTLY_Q1_0
    Q2_0 = lib.LLAMA_FTYPE_MOSTLY_Q2_0

    @classmethod
    def parse(cls, name: str | Ftype) -> Ftype:
        """Return the file type of a name, case ignored; Q3_K, Q4_K and Q5_K stand for their M variants.

        Raises:
            InvalidArgumentError: There is no such type; the message lists them.
        """
        if isinstance(name, Ftype):
            return name
        key = str(name).upper()
        try:
            return cls[_ALIASES.get(key, key)]
        except KeyError:
            names = ", ".join(item.name for item in cls if item.quantizable)
            raise InvalidArgumentError(f"{name!r} is no file type", hint=f"use one of: {names}") from None

    @property
    def quantizable(self) -> bool:
        """Whether `quantize` can make it; upstream reads NVFP4 files but makes none."""
        return self is not Ftype.NVFP4

    @property
    def description(self) -> str:
        """Upstream's name for it ("Q4_K - Medium")."""
        return text(lib.llama_ftype_name(self.value))
