"""Reading the objects of a manifest: every complaint names the path of what is wrong, as `nodes[1].params`."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..errors import InvalidArgumentError


class Fields:
    """One object of a manifest while it is read; `finish()` looks at what nobody asked for.

    Args:
        value: What stands there.
        path: Where; empty for the manifest itself.
        notes: Takes what is found and not used, a line each.
    """

    def __init__(self, value: object, path: str, notes: list[str]) -> None:
        if not isinstance(value, Mapping):
            raise wrong(path or "the manifest", value, "an object")
        for key in value:
            if not isinstance(key, str):
                raise InvalidArgumentError(f"{path or 'the manifest'}: the key {key!r} is no text", hint="quote it")
        self.path = path
        self.notes = notes
        self._value: Mapping[str, Any] = value
        self._known: list[str] = []

    def at(self, key: str) -> str:
        """Path of one of its keys."""
        return f"{self.path}.{key}" if self.path else key

    def _get(self, key: str) -> Any:
        self._known.append(key)
        return self._value.get(key)

    def required(self, key: str) -> str:
        """A text that must be there and not be empty."""
        value = self._get(key)
        if key not in self._value:
            raise InvalidArgumentError(f"{self.at(key)} is missing", hint="every manifest states it")
        if not isinstance(value, str) or not value:
            raise wrong(self.at(key), value, "a text that is not empty")
        return value

    def text(self, key: str, *, choices: tuple[str, ...] = ()) -> str | None:
        """A text, one of the choices if there are any; None where there is none."""
        value = self._get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise wrong(self.at(key), value, "a text")
        if choices and value not in choices:
            raise InvalidArgumentError(f"{self.at(key)} is {value!r}", hint=f"give one of {', '.join(choices)}")
        return value

    def flag(self, key: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise wrong(self.at(key), value, "true or false")
        return value

    def number(self, key: str) -> float | None:
        """A finite number that is not negative."""
        value = self._get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
            raise wrong(self.at(key), value, "a number that is not negative")
        return float(value)

    def whole(self, key: str) -> int | None:
        """A whole number that is not negative."""
        value = self._get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise wrong(self.at(key), value, "a whole number that is not negative")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        for number, value in enumerate(self.items(key)):
            if not isinstance(value, str) or not value:
                raise wrong(f"{self.at(key)}[{number}]", value, "a text that is not empty")
        return tuple(self.items(key))

    def items(self, key: str) -> list[Any]:
        """A list of anything; empty where there is none."""
        value = self._get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise wrong(self.at(key), value, "a list")
        return value

    def mapping(self, key: str) -> Mapping[str, Any] | None:
        """An object that is kept as it is, read-only."""
        value = self._get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise wrong(self.at(key), value, "an object")
        return MappingProxyType(dict(value))

    def child(self, key: str) -> Fields | None:
        """An object that is read in its turn."""
        value = self._get(key)
        return None if value is None else Fields(value, self.at(key), self.notes)

    def children(self, key: str) -> list[Fields]:
        """A list of objects that are read in their turn."""
        return [Fields(value, f"{self.at(key)}[{i}]", self.notes) for i, value in enumerate(self.items(key))]

    def finish(self) -> None:
        """Note keys that mean nothing here; one that looks like a slip of the pen is an error."""
        for key in self._value:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1, cutoff=0.7)
                if near:
                    raise InvalidArgumentError(f"{self.at(key)} means nothing", hint=f"did you mean {near[0]}?")
                self.notes.append(f"{self.at(key)} is unknown and not used")


def wrong(path: str, value: object, wanted: str) -> InvalidArgumentError:
    """Say what stands at a path and what should."""
    shown = repr(value)
    return InvalidArgumentError(f"{path} is {shown if len(shown) <= 60 else shown[:57] + '...'}", hint=f"give {wanted}")
