"""Which class stands for a `node_type`: our four nodes, those of the user, and those of installed packages."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from ..errors import InvalidArgumentError, UnsupportedError
from .node import Node

ENTRY_POINTS = "llamacore.nodes"
"""The entry point group in which packages name their node classes."""

_OURS = {
    "LlamaCppGenerationNode": ("llamacore.nodes.generation", "GenerationNode"),
    "LlamaCppEmbeddingNode": ("llamacore.nodes.embedding", "EmbeddingNode"),
    "LlamaCppActivationNode": ("llamacore.nodes.activation", "ActivationNode"),
    "LlamaCppSteerNode": ("llamacore.nodes.steer", "SteerNode"),
}
_registered: dict[str, type[Node]] = {}

_NodeClass = TypeVar("_NodeClass", bound=type[Node])


def register_node(name: str) -> Callable[[_NodeClass], _NodeClass]:
    """Class decorator: manifests can use the class as `node_type: name`. The last class of a name counts.

    Raises:
        InvalidArgumentError: The name is empty, or the class is no node.
    """
    given: object = name  # from anywhere
    if not (isinstance(given, str) and given.strip()):
        raise InvalidArgumentError(f"a node type with the name {name!r}", hint='write @register_node("MyNode")')

    def register(cls: _NodeClass) -> _NodeClass:
        _checked(cls, f"the node type {name}").node_type = name
        _registered[name] = cls
        return cls

    return register


def registered_nodes() -> Mapping[str, type[Node]]:
    """Return the node classes that were registered in this process, by name."""
    return dict(_registered)


def node_types() -> list[str]:
    """Return the names of all node types that a manifest can use here, sorted."""
    return sorted({*_OURS, *_registered, *(point.name for point in _points())})


def node_class(name: str) -> type[Node]:
    """Return the class of a node type: a registered one, one of ours, one that an installed package names.

    Ours and those of packages are imported now, not earlier.

    Raises:
        InvalidArgumentError: Nobody knows it, or it is no node class.
        UnsupportedError: The package that has it cannot be imported.
    """
    if name in _registered:
        return _registered[name]
    if name in _OURS:
        module, attribute = _OURS[name]
        return _checked(getattr(import_module(module), attribute), f"the node type {name}")
    for point in _points():
        if point.name == name:
            what = f"the node type {name} ({point.value})"
            try:
                loaded = point.load()
            except Exception as exc:  # somebody else's module: whatever it raises
                raise UnsupportedError(
                    f"{what} cannot be imported: {type(exc).__name__}: {exc}", hint="repair or reinstall its package"
                ) from exc
            return _checked(loaded, what)
    known = node_types()
    near = difflib.get_close_matches(name, known, n=1)
    raise InvalidArgumentError(
        f"there is no node type {name!r}",
        hint=f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}; register others first",
    )


def _checked(cls: object, what: str) -> type[Node]:
    if not (isinstance(cls, type) and issubclass(cls, Node)):
        raise InvalidArgumentError(f"{what}: {cls!r} is no node class", hint="derive it from llamacore.nodes.Node")
    return cls


def _points() -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINTS))
