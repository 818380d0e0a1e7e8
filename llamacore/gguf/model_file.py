"""The questions that the checks ask of a model file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from ..errors import InvalidModelError
from .reader import GgufFile


class ModelFile:
    """One file with the questions that the checks ask of it."""

    def __init__(self, file: GgufFile, overrides: Mapping[str, object]) -> None:
        self.file = file
        self._overrides = overrides
        self.arch = self.text("general.architecture") or ""

    def _value(self, key: str) -> object:
        value = self._overrides.get(key)
        if value is None:
            return self.file.metadata.get(key)
        # upstream keeps the lower half of a number that it takes as 32 bits
        return value & 0xFFFF_FFFF if type(value) is int else value

    def fail(self, what: str, *, hint: str = "convert or download the model again") -> NoReturn:
        """Raise the error for a model that cannot be run."""
        raise InvalidModelError(f"{self.file.path} cannot be run: {what}", hint=hint)

    def text(self, key: str) -> str | None:
        """The value of a key, None when it is missing or no string."""
        value = self._value(key)
        return value if isinstance(value, str) else None

    def numbers(self, key: str) -> list[float]:
        """The value of a key below the architecture's name, as a list; empty when it is missing or no number."""
        value = self._value(f"{self.arch}.{key}")
        if isinstance(value, (bool, int, float)):
            return [value]
        if isinstance(value, list):
            return [item for item in value if isinstance(item, (bool, int, float))]
        return []

    def number(self, key: str, default: float = 0) -> float:
        """The first of `numbers`."""
        found = self.numbers(key)
        return found[0] if found else default

    def describe(self, key: str) -> str:
        """A key as it is shown in messages."""
        shown = self.numbers(key)
        return f"{self.arch}.{key} is {shown[0] if len(shown) == 1 else shown}"
