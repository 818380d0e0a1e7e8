"""Reading the parameters of nodes: names and aliases, types, nested blocks, and what nobody knows."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..core import sampler_checks
from ..errors import InvalidArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Params:
    """Base of the parameters of a node: frozen dataclasses that check themselves and can be read from JSON.

    Attributes:
        ALIASES: Other names of parameters.
        NESTED: Parameters that are blocks of their own, with their classes.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {}
    NESTED: ClassVar[Mapping[str, type[Params]]] = {}

    @classmethod
    def read(cls, given: Any, at: str = "") -> tuple[Self, list[str]]:
        """Make them of an object as JSON has it.

        Args:
            given: The object. What is left out has its default.
            at: Where it stands, for messages: "" or such as "generation.".

        Returns:
            The parameters, and a sentence for each key that is unknown and therefore not used.

        Raises:
            InvalidArgumentError: A value is wrong; the message begins with "Invalid config".
        """
        if not isinstance(given, Mapping):
            raise invalid(f"{at.rstrip('.') or 'it'} is a {type(given).__name__}", "give an object")
        fields = [field.name for field in dataclasses.fields(cls)]
        known = [*fields, *cls.ALIASES]
        values: dict[str, Any] = {}
        warnings: list[str] = []
        for key, value in given.items():
            name = cls.ALIASES.get(key, key)
            if name not in fields:
                near = difflib.get_close_matches(str(key), known, n=1)
                did = f", did you mean {near[0]!r}?" if near else ""
                warnings.append(f"{at}{key} is unknown and not used{did}")
            elif name in values:
                raise invalid(f"{at}{name} is given twice, also under another name", "leave one of them out")
            elif name in cls.NESTED and isinstance(value, Mapping):
                values[name], more = cls.NESTED[name].read(value, f"{at}{name}.")
                warnings += more
            else:
                values[name] = value
        try:
            return cls(**values), warnings
        except InvalidArgumentError as exc:
            raise InvalidArgumentError(_prefixed(exc.message, at), hint=exc.hint) from None

    def _require_blocks(self) -> None:
        """Check that blocks are of their classes, or None where that is the default."""
        for field in dataclasses.fields(self):
            kind, value = self.NESTED.get(field.name), getattr(self, field.name)
            if kind is None or isinstance(value, kind) or (value is None and field.default is None):
                continue
            raise invalid(f"{field.name}={value!r}", "give an object")


def invalid(what: str, hint: str = "") -> InvalidArgumentError:
    """Say that a parameter is wrong."""
    return InvalidArgumentError(f"Invalid config: {what}", hint=hint)


def _prefixed(message: str, at: str) -> str:
    """Name the block in a message about one of its parameters."""
    start = "Invalid config: "
    inner = message.removeprefix(start)
    return f"{start}{at}{inner}"


def whole(name: str, value: Any, lowest: int, highest: int = 2**31 - 1) -> None:
    """Check a whole number."""
    if type(value) is not int or not lowest <= value <= highest:
        limits = f"of {lowest} or more" if highest == 2**31 - 1 else f"from {lowest} to {highest}"
        raise invalid(f"{name}={value!r}", f"give a whole number {limits}")


def real(name: str, value: Any, lowest: float, *, above: bool = False) -> None:
    """Check a finite number that is not below `lowest` (with `above`, that is above it)."""
    try:
        if isinstance(value, (bool, str)):
            raise InvalidArgumentError(f"{name}={value!r}")
        sampler_checks.real(name, value)
    except InvalidArgumentError:
        raise invalid(f"{name}={value!r}", "give a number") from None
    if value < lowest or (above and value == lowest):
        raise invalid(f"{name}={value!r}", f"give a number {'above' if above else 'not below'} {lowest:g}")


def flag(name: str, value: Any) -> None:
    """Check a bool."""
    if type(value) is not bool:
        raise invalid(f"{name}={value!r}", "give true or false")


def text(name: str, value: Any, *, or_none: bool = False, empty: bool = True) -> None:
    """Check a text."""
    if value is None and or_none:
        return
    if not isinstance(value, str):
        raise invalid(f"{name}={value!r}", "give a text")
    if not empty and not value:
        raise invalid(f"{name} must not be empty")


def choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Check that a text is one of some."""
    if not isinstance(value, str) or value not in choices:
        raise invalid(f"{name}={value!r}", "use one of " + ", ".join(choices))
