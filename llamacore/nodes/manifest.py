"""Pipeline manifests, version v1: what a JSON or YAML file says, checked and frozen.

Everything that such a manifest may have is read. What only means something to other hosts (containers, placement,
Python environments) is checked for its form, kept, and named in `Manifest.not_used`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import InvalidArgumentError, UnsupportedError
from ..params import StrPath
from .manifest_fields import Fields, wrong
from .manifest_parts import (
    DEFAULT_PORT,
    Capabilities,
    Connection,
    Execution,
    GpuRequirement,
    ManifestMetadata,
    ManifestNode,
    PluginSpec,
    PythonEnv,
)

VERSION = "v1"

_RUNTIMES = ("rust_python", "cpython", "cpython_wasm", "auto")
_PLACEMENTS = ("local", "remote", "prefer_local", "prefer_remote", "auto")
_HERE = ("cpython", "auto", "local", "prefer_local", "")


@dataclass(frozen=True)
class Manifest:
    """A pipeline as a file describes it. Made by `Manifest.load` and `Manifest.parse`.

    Attributes:
        nodes: At least one.
        connections: Between nodes of the manifest.
        not_used: What the manifest says and nothing here uses, a line each, with its path.
        folder: Where it lies; its relative paths are relative to that.
    """

    nodes: tuple[ManifestNode, ...]
    connections: tuple[Connection, ...] = ()
    metadata: ManifestMetadata = field(default_factory=ManifestMetadata)
    plugins: tuple[PluginSpec, ...] = ()
    python_env: PythonEnv | None = None
    version: str = VERSION
    not_used: tuple[str, ...] = ()
    folder: Path = Path()

    @classmethod
    def load(cls, path: StrPath) -> Manifest:
        """Read a manifest from a `.json`, `.yaml` or `.yml` file (YAML needs PyYAML: the extra `yaml`).

        Raises:
            FileNotFoundError: There is no such file.
            InvalidArgumentError: It does not parse, or is no sound manifest.
            UnsupportedError: It is YAML and PyYAML is not installed.
        """
        file = Path(path)
        try:
            source = file.read_text("utf-8-sig")
        except UnicodeDecodeError as exc:
            raise InvalidArgumentError(f"{file} is not UTF-8 text", hint="a manifest is JSON or YAML") from exc
        is_yaml = file.suffix.lower() in (".yaml", ".yml")
        try:
            value = _yaml(source) if is_yaml else json.loads(source, object_pairs_hook=_unique)
        except ValueError as exc:
            raise InvalidArgumentError(f"{file} is no {'YAML' if is_yaml else 'JSON'}: {exc}") from exc
        except RecursionError as exc:
            raise InvalidArgumentError(f"{file} is nested too deeply") from exc
        try:
            return cls.parse(value, folder=file.parent)
        except InvalidArgumentError as exc:
            raise InvalidArgumentError(f"{file}: {exc.message}", hint=exc.hint) from None

    @classmethod
    def parse(cls, value: object, *, folder: StrPath = ".") -> Manifest:
        """Check a manifest that has been read.

        Args:
            value: A mapping, as `json.load` makes it, or JSON text.
            folder: What its relative paths are relative to.

        Raises:
            InvalidArgumentError: It is not sound; the message begins with the path of what is wrong.
        """
        if isinstance(value, (str, bytes)):
            try:
                value = json.loads(value, object_pairs_hook=_unique)
            except (ValueError, RecursionError) as exc:
                raise InvalidArgumentError(f"the manifest is no JSON: {exc}") from exc
        notes: list[str] = []
        top = Fields(value, "", notes)
        version = top.required("version")
        if version != VERSION:
            raise InvalidArgumentError(f"version is {version!r}", hint=f"this package reads {VERSION!r}")
        metadata = _metadata(top.child("metadata"))
        nodes = tuple(_node(item) for item in top.children("nodes"))
        if not nodes:
            raise InvalidArgumentError("nodes is empty", hint="a manifest has at least one node")
        connections = tuple(_connection(item) for item in top.children("connections"))
        plugins = tuple(_plugin(item, i, notes) for i, item in enumerate(top.items("plugins")))
        python_env = _python_env(top.child("python_env"))
        top.finish()
        _check_graph(nodes, connections)
        return cls(nodes, connections, metadata, plugins, python_env, version, tuple(notes), Path(folder))


def _yaml(source: str) -> object:
    try:
        yaml: Any = import_module("yaml")  # an extra
    except ImportError:
        raise UnsupportedError(
            "reading YAML needs PyYAML, which is not installed", hint="pip install 'llamacore[yaml]', or write JSON"
        ) from None
    try:
        return yaml.safe_load(source)
    except yaml.YAMLError as exc:
        raise ValueError(str(exc)) from exc


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return made


def _metadata(item: Fields | None) -> ManifestMetadata:
    if item is None:
        return ManifestMetadata()
    made = ManifestMetadata(
        name=item.text("name") or "",
        description=item.text("description"),
        created_at=item.text("created_at"),
        auto_negotiate=item.flag("auto_negotiate"),
        strict_capabilities=item.flag("strict_capabilities"),
        default_python_runtime=item.text("default_python_runtime"),
    )
    item.finish()
    _note(item, made, "auto_negotiate", "strict_capabilities", "default_python_runtime")
    return made


def _node(item: Fields) -> ManifestNode:
    params = item.mapping("params")
    made = ManifestNode(
        id=item.required("id"),
        node_type=item.required("node_type"),
        params=MappingProxyType({}) if params is None else params,
        is_streaming=item.flag("is_streaming"),
        is_output_node=item.flag("is_output_node"),
        capabilities=_capabilities(item.child("capabilities")),
        media_capabilities=item.mapping("media_capabilities"),
        host=item.text("host"),
        runtime_hint=item.text("runtime_hint", choices=_RUNTIMES),  # type: ignore[arg-type]
        execution=_execution(item.child("execution")),
        docker=item.mapping("docker"),
        fast_path=item.flag("fast_path"),
        python_deps=item.texts("python_deps") or None,
        python_env=_python_env(item.child("python_env")),
    )
    item.finish()
    _note(item, made, "capabilities", "media_capabilities", "host", "docker", "fast_path", "python_deps")
    if (made.runtime_hint or "auto") not in _HERE:
        _note(item, made, "runtime_hint")
    if made.execution is not None and made.execution.placement not in _HERE:
        _note(item, made, "execution")
    if made.id.startswith("__"):
        raise InvalidArgumentError(f"{item.at('id')} is {made.id!r}", hint="names that begin with __ are reserved")
    return made


def _capabilities(item: Fields | None) -> Capabilities | None:
    if item is None:
        return None
    gpu, cpu = item.child("gpu"), item.child("cpu")
    gpu_wanted = None
    if gpu is not None:
        gpu_wanted = GpuRequirement(
            gpu.required("type"), gpu.number("min_memory_gb"), gpu.flag("required", default=True)
        )
        gpu.finish()
    if cpu is not None:
        cpu.whole("cores")
        cpu.text("arch")
        cpu.finish()
    made = Capabilities(gpu_wanted, item.mapping("cpu"), item.number("memory_gb"))
    item.finish()
    return made


def _execution(item: Fields | None) -> Execution | None:
    if item is None:
        return None
    placement = item.text("placement", choices=_PLACEMENTS) or ""
    made = Execution(placement, item.text("reason"), item.text("fallback"))  # type: ignore[arg-type]
    item.finish()
    return made


def _python_env(item: Fields | None) -> PythonEnv | None:
    if item is None:
        return None
    made = PythonEnv(item.text("python_version"), item.text("scope"), item.texts("extra_deps"))
    item.finish()
    item.notes.append(f"{item.path} is not used here")
    return made


def _connection(item: Fields) -> Connection:
    made = Connection(
        from_=item.required("from"),
        to=item.required("to"),
        from_port=item.text("from_port") or DEFAULT_PORT,
        to_port=item.text("to_port") or DEFAULT_PORT,
    )
    item.finish()
    return made


def _plugin(value: object, number: int, notes: list[str]) -> PluginSpec:
    path = f"plugins[{number}]"
    if isinstance(value, str):
        made = _shorthand(value, path)
    else:
        item = Fields(value, path, notes)
        made = PluginSpec(*(item.text(key) for key in ("name", "url", "path", "version", "sha256")))
        item.finish()
        given = [key for key in ("url", "name", "path") if getattr(made, key)]
        if len(given) != 1:
            raise InvalidArgumentError(
                f"{path} has {' and '.join(given) or 'no source'}", hint="give exactly one of url, name and path"
            )
    if not made.provided and not (made.path or "").endswith(".py"):
        notes.append(f"{path} is not used here: its node types must be registered in Python")
    return made


def _shorthand(value: str, path: str) -> PluginSpec:
    if not value:
        raise wrong(path, value, "a name, an address or a path")
    if value.startswith(("http://", "https://")):
        return PluginSpec(url=value)
    if value in (".", "..") or value.startswith(("./", "../", "/")) or value.endswith((".so", ".dylib", ".dll", ".py")):
        return PluginSpec(path=value)
    name, _, version = value.partition("@")
    if not name:
        raise wrong(path, value, "a name, an address or a path")
    return PluginSpec(name=name, version=version or None)


def _note(item: Fields, made: object, *keys: str) -> None:
    item.notes.extend(f"{item.at(key)} is not used here" for key in keys if getattr(made, key))


def _check_graph(nodes: tuple[ManifestNode, ...], connections: tuple[Connection, ...]) -> None:
    ids = [node.id for node in nodes]
    for i, name in enumerate(ids):
        if name in ids[:i]:
            raise InvalidArgumentError(
                f"nodes[{i}].id is {name!r}, as nodes[{ids.index(name)}].id", hint="ids are unique"
            )
    seen: set[Connection] = set()
    for i, link in enumerate(connections):
        for key, name in (("from", link.from_), ("to", link.to)):
            if name not in ids:
                raise InvalidArgumentError(
                    f"connections[{i}].{key} is {name!r}, which is no node", hint=f"the nodes are {', '.join(ids)}"
                )
        if link in seen:
            raise InvalidArgumentError(f"connections[{i}] is there twice", hint="remove one of them")
        seen.add(link)
    refuse_circles(nodes, connections)


def refuse_circles(
    nodes: tuple[ManifestNode, ...], connections: tuple[Connection, ...], several: Collection[str] = ()
) -> None:
    """Refuse inputs that run in a circle: they would never end. What goes to auxiliary ports may point back.

    Args:
        nodes: The nodes.
        connections: The connections.
        several: Ids of the nodes whose other ports are inputs too.
    """
    ids = [node.id for node in nodes]
    inputs = [link for link in connections if link.to_port == DEFAULT_PORT or link.to in several]
    after = {name: [link.to for link in inputs if link.from_ == name] for name in ids}
    left = set(ids)
    while ends := {name for name in left if not left.intersection(after[name])}:
        left -= ends
    if left:
        circle = [min(left, key=ids.index)]
        while circle.count(circle[-1]) == 1:
            circle.append(next(name for name in after[circle[-1]] if name in left))
        circle = circle[circle.index(circle[-1]) :]
        number = next(i for i, link in enumerate(connections) if (link.from_, link.to) == (circle[-2], circle[-1]))
        raise InvalidArgumentError(
            f"connections[{number}] closes a circle: {' -> '.join(circle)}",
            hint='only auxiliary ports, like to_port "barge_in", may point back',
        )
