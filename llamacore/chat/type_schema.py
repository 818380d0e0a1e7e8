"""Types of Python as JSON schemas, and JSON values as values of these types."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import json
import types
import typing
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from ..errors import InvalidArgumentError
from .schema_check import step

MAX_LEVELS = 50
"""Types within types."""

_PLAIN: dict[Any, dict[str, Any]] = {
    Any: {},
    object: {},
    None: {"type": "null"},
    type(None): {"type": "null"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    dict: {"type": "object"},
    list: {"type": "array"},
}
_READ_FROM_TEXT: dict[Any, tuple[str, Callable[[str], Any]]] = {
    datetime.date: ("date", datetime.date.fromisoformat),
    datetime.datetime: ("date-time", lambda text: datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))),
    datetime.time: ("time", lambda text: datetime.time.fromisoformat(text.replace("Z", "+00:00"))),
    uuid.UUID: ("uuid", uuid.UUID),
}
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Set,
          collections.abc.Collection, collections.abc.MutableSequence)  # fmt: skip
_LIMITS = {
    "ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum", "multiple_of": "multipleOf",
    "min_length": "minLength", "max_length": "maxLength", "pattern": "pattern",
}  # fmt: skip
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Mismatch(ValueError):  # noqa: N818 - it is always turned into an error of the package
    """A value is not of the type; the text says where."""


def is_pydantic(kind: Any) -> bool:
    """Whether something is a pydantic model class, found out without importing pydantic."""
    return isinstance(kind, type) and hasattr(kind, "model_json_schema") and hasattr(kind, "model_validate")


class TypeSchema:
    """A type of Python with its JSON schema.

    Known are: bool, int, float, str, None, Any, Literal, enums, Optional and unions, list, tuple, set, dict, dates,
    times, UUID, Decimal, dataclasses, TypedDict, pydantic models and Annotated of all these, where texts become
    descriptions and the limits of pydantic's `Field` are kept.

    Args:
        kind: The type.

    Raises:
        InvalidArgumentError: There is no schema for the type.
    """

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self._defs: dict[str, Any] = {}
        self._names: dict[Any, str] = {}
        schema = self._of(kind, 0)
        self.schema: dict[str, Any] = {**schema, "$defs": self._defs} if self._defs else schema

    def convert(self, value: Any) -> Any:
        """Make a value of the type from a JSON value.

        Raises:
            Mismatch: It is not of the type.
        """
        return self._convert(self.kind, value, "$")

    # schemas

    def _of(self, kind: Any, level: int) -> dict[str, Any]:
        if level > MAX_LEVELS:
            raise InvalidArgumentError(f"the type {self.kind!r} is nested deeper than {MAX_LEVELS} levels")
        try:
            if kind in _PLAIN:
                return dict(_PLAIN[kind])
            if kind in _READ_FROM_TEXT:
                return {"type": "string", "format": _READ_FROM_TEXT[kind][0]}
        except TypeError:
            pass  # not hashable: Literal of lists, or no type at all
        origin, args = get_origin(kind), get_args(kind)
        if kind is decimal.Decimal:
            return {"type": "number"}
        if origin is typing.Annotated:
            return _annotated(self._of(args[0], level + 1), args[1:])
        if origin is Literal:
            return {"enum": list(args)}
        if origin in (Union, types.UnionType):
            return self._union(args, level)
        if kind in (tuple, set, frozenset) or origin in _LISTS:
            return self._list(origin or kind, args, level)
        if origin in _DICTS:
            return self._dict(args, level)
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return {"enum": [_json_value(member.value, kind) for member in kind]}
        if is_pydantic(kind):
            return self._pydantic(kind)
        if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
            return self._fields(kind, level)
        raise InvalidArgumentError(
            f"there is no JSON schema for the type {kind!r}",
            hint="use JSON's own types, Literal, enums, dataclasses, TypedDict or pydantic models",
        )

    def _union(self, args: tuple[Any, ...], level: int) -> dict[str, Any]:
        return {"anyOf": [self._of(arg, level + 1) for arg in args]}

    def _list(self, origin: Any, args: tuple[Any, ...], level: int) -> dict[str, Any]:
        if origin is tuple and args and args[-1] is not Ellipsis:
            items = [self._of(arg, level + 1) for arg in args if arg != ()]
            return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)} \
                if items else {"type": "array", "maxItems": 0}  # fmt: skip
        found: dict[str, Any] = {"type": "array", **({"items": self._of(args[0], level + 1)} if args else {})}
        return {**found, "uniqueItems": True} if origin in (set, frozenset, collections.abc.Set) else found

    def _dict(self, args: tuple[Any, ...], level: int) -> dict[str, Any]:
        if not args:
            return {"type": "object"}
        if args[0] not in (str, Any):
            raise InvalidArgumentError(f"a dict with keys of {args[0]!r}", hint="JSON has texts for keys: use str")
        return {"type": "object", "additionalProperties": self._of(args[1], level + 1)}

    def _pydantic(self, kind: Any) -> dict[str, Any]:
        # its own definitions become ours; its references already have the form that ours have
        schema = dict(kind.model_json_schema())
        for name, part in schema.pop("$defs", {}).items():
            if self._defs.setdefault(name, part) != part:
                raise InvalidArgumentError(f"two different models are named {name!r}", hint="rename one of them")
        return schema

    def _fields(self, kind: Any, level: int) -> dict[str, Any]:
        if kind not in self._names:
            name = kind.__name__
            while name in self._defs:
                name += "_"
            self._names[kind] = name
            self._defs[name] = {}
            properties, required = {}, []
            for field, annotation, default in _fields_of(kind):
                properties[field] = self._of(annotation, level + 1)
                if default is dataclasses.MISSING:
                    required.append(field)
            schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
            if kind.__doc__ and not kind.__doc__.startswith(f"{kind.__name__}("):  # not the one dataclasses write
                schema["description"] = kind.__doc__.strip().split("\n\n")[0]
            self._defs[name] = schema
        return {"$ref": f"#/$defs/{self._names[kind]}"}

    # values

    def _convert(self, kind: Any, value: Any, at: str) -> Any:
        origin, args = get_origin(kind), get_args(kind)
        if origin is typing.Annotated:
            return self._convert(args[0], value, at)
        if kind is Any or kind is object:
            return value
        if origin is Literal:
            return _one_of(args, value, at)
        if origin in (Union, types.UnionType):
            return self._convert_union(args, value, at)
        if kind in (list, tuple, set, frozenset) or origin in _LISTS:
            return self._convert_list(origin or kind, args, value, at)
        if kind is dict or origin in _DICTS:
            if not isinstance(value, Mapping):
                raise _wrong(value, "object", at)
            inner = args[1] if args else Any
            return {str(key): self._convert(inner, item, step(at, str(key))) for key, item in value.items()}
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return kind(_one_of([member.value for member in kind], value, at))
        if is_pydantic(kind):
            try:
                return kind.model_validate(value)
            except ValueError as exc:
                raise Mismatch(f"{at}: {exc}") from exc
        if dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
            return self._convert_fields(kind, value, at)
        return _plain_value(kind, value, at)

    def _convert_union(self, args: tuple[Any, ...], value: Any, at: str) -> Any:
        why: list[str] = []
        # the exact type first: 1 is an int before it is a float, true is a bool
        for arg in sorted(args, key=lambda arg: type(value) is not (type(None) if arg is None else arg)):
            try:
                return self._convert(arg, value, at)
            except Mismatch as exc:
                why.append(str(exc))
        raise Mismatch("; ".join(why))

    def _convert_list(self, origin: Any, args: tuple[Any, ...], value: Any, at: str) -> Any:
        if not isinstance(value, (list, tuple)):
            raise _wrong(value, "array", at)
        if origin is tuple and args and args[-1] is not Ellipsis:
            inner = [arg for arg in args if arg != ()]
            if len(inner) != len(value):
                raise Mismatch(f"{at}: {len(value)} items instead of {len(inner)}")
        else:
            inner = [args[0] if args else Any] * len(value)
        items = [
            self._convert(kind, item, step(at, n)) for n, (kind, item) in enumerate(zip(inner, value, strict=True))
        ]
        make = {tuple: tuple, set: set, collections.abc.Set: set, frozenset: frozenset}.get(origin, list)
        try:
            return make(items)
        except TypeError as exc:
            raise Mismatch(f"{at}: {exc}") from exc

    def _convert_fields(self, kind: Any, value: Any, at: str) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(value, "object", at)
        fields = {name: (annotation, default) for name, annotation, default in _fields_of(kind)}
        for name in value:
            if name not in fields:
                raise Mismatch(f"{at}: there is no {name!r} in {kind.__name__}")
        found = {}
        for name, (annotation, default) in fields.items():
            if name in value:
                found[name] = self._convert(annotation, value[name], step(at, name))
            elif default is dataclasses.MISSING:
                raise Mismatch(f"{at}: {name!r} is missing")
        try:
            return kind(**found)
        except (TypeError, ValueError) as exc:  # what the class itself checks
            raise Mismatch(f"{at}: {exc}") from exc


def _annotated(schema: dict[str, Any], notes: tuple[Any, ...]) -> dict[str, Any]:
    """A schema with what stands beside a type in `Annotated`: a text, or limits as pydantic's `Field` has them."""
    found = dict(schema)
    for note in notes:
        if isinstance(note, str):
            found["description"] = note
        elif isinstance(getattr(note, "description", None), str):
            found["description"] = note.description
        for limit in (note, *(getattr(note, "metadata", None) or ())):
            for name, key in _LIMITS.items():
                value = getattr(limit, name, None)
                if isinstance(value, (int, float, str)):
                    found[key.replace("Length", "Items") if found.get("type") == "array" else key] = value
    return found


@functools.lru_cache(maxsize=128)
def _fields_of(kind: Any) -> tuple[tuple[str, Any, Any], ...]:
    """The fields of a dataclass or TypedDict: name, type, and MISSING or something else where it may be left out."""
    try:
        hints = typing.get_type_hints(kind, include_extras=True)
    except (NameError, TypeError) as exc:
        raise InvalidArgumentError(f"the types of {kind.__name__} cannot be found: {exc}") from exc
    if dataclasses.is_dataclass(kind):
        return tuple(
            (field.name, hints[field.name],
             field.default if field.default_factory is dataclasses.MISSING else field.default_factory)
            for field in dataclasses.fields(kind)
            if field.init
        )  # fmt: skip
    required = kind.__required_keys__
    return tuple(
        (name, _unqualified(hint), dataclasses.MISSING if name in required else None) for name, hint in hints.items()
    )


def _unqualified(hint: Any) -> Any:
    """A hint of a TypedDict without Required and NotRequired."""
    origin = get_origin(hint)
    return get_args(hint)[0] if getattr(origin, "_name", "") in ("Required", "NotRequired", "ReadOnly") else hint


def _json_value(value: Any, kind: Any) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise InvalidArgumentError(f"the enum {kind.__name__} has the value {value!r}", hint="use texts and numbers")


def _one_of(options: Any, value: Any, at: str) -> Any:
    for option in options:
        if option == value and isinstance(option, bool) == isinstance(value, bool):
            return option
    raise Mismatch(f"{at}: {json.dumps(value, default=str)[:80]} is none of {list(options)!r:.200}")


def _plain_value(kind: Any, value: Any, at: str) -> Any:
    if kind is None or kind is type(None):
        if value is None:
            return None
        raise _wrong(value, "null", at)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is decimal.Decimal and isinstance(value, (int, float)) and not isinstance(value, bool):
        return decimal.Decimal(str(value))
    if kind in _READ_FROM_TEXT:
        if not isinstance(value, str):
            raise _wrong(value, "string", at)
        try:
            return _READ_FROM_TEXT[kind][1](value)
        except ValueError as exc:
            raise Mismatch(f"{at}: {exc}") from exc
    if isinstance(kind, type) and isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    raise _wrong(value, str(_PLAIN.get(kind, {}).get("type", kind)), at)


def _wrong(value: Any, wanted: str, at: str) -> Mismatch:
    return Mismatch(f"{at}: {json.dumps(value, ensure_ascii=False, default=str)[:80]} is no {wanted}")
