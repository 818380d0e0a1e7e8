"""The parts of a manifest, as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

DEFAULT_PORT = "default"
RuntimeHint = Literal["rust_python", "cpython", "cpython_wasm", "auto"]
Placement = Literal["local", "remote", "prefer_local", "prefer_remote", "auto"]

_PROVIDED = ("llama-cpp", "RemoteMedia-SDK/llama-cpp", "github.com/RemoteMedia-SDK/llama-cpp")
"""The plugin whose four node types are this package's own."""


@dataclass(frozen=True)
class ManifestMetadata:
    """What a manifest says about itself."""

    name: str = ""
    description: str | None = None
    created_at: str | None = None
    auto_negotiate: bool = False
    strict_capabilities: bool = False
    default_python_runtime: str | None = None


@dataclass(frozen=True)
class GpuRequirement:
    """A GPU that a node asks for: type ("cuda", ...), memory in gigabytes."""

    type: str
    min_memory_gb: float | None = None
    required: bool = True


@dataclass(frozen=True)
class Capabilities:
    """What a node asks of its machine; `cpu` as it stands there: cores, arch."""

    gpu: GpuRequirement | None = None
    cpu: Mapping[str, Any] | None = None
    memory_gb: float | None = None


@dataclass(frozen=True)
class Execution:
    """Where a node is to run."""

    placement: Placement | Literal[""] = ""
    reason: str | None = None
    fallback: str | None = None


@dataclass(frozen=True)
class PythonEnv:
    """The Python environment of a pipeline or of one node."""

    python_version: str | None = None
    scope: str | None = None
    extra_deps: tuple[str, ...] = ()


@dataclass(frozen=True)
class ManifestNode:
    """One node.

    Attributes:
        id: Its name, unique in the manifest.
        node_type: What it is, see `llamacore.nodes.node_types()`.
        params: Its parameters, checked by the node itself.
        is_streaming: Stated by the manifest; here every node may yield several results for one input.
        is_output_node: Its results are results of the pipeline even if other nodes take them too.
    """

    id: str
    node_type: str
    params: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    is_streaming: bool = False
    is_output_node: bool = False
    capabilities: Capabilities | None = None
    media_capabilities: Mapping[str, Any] | None = None
    host: str | None = None
    runtime_hint: RuntimeHint | None = None
    execution: Execution | None = None
    docker: Mapping[str, Any] | None = None
    fast_path: bool = False
    python_deps: tuple[str, ...] | None = None
    python_env: PythonEnv | None = None


@dataclass(frozen=True)
class Connection:
    """Results of the node `from_` are inputs of the node `to`; a port other than "default" is an auxiliary one."""

    from_: str
    to: str
    from_port: str = DEFAULT_PORT
    to_port: str = DEFAULT_PORT


@dataclass(frozen=True)
class PluginSpec:
    """A plugin that a manifest names: exactly one of `name`, `url` and `path`.

    Attributes:
        name: Shorthand or name, without the version.
        url: Address of a library.
        path: A file; a Python file is imported, so that it can register nodes.
        version: Release tag; None for the latest.
        sha256: What the file must have, in hexadecimal digits.
    """

    name: str | None = None
    url: str | None = None
    path: str | None = None
    version: str | None = None
    sha256: str | None = None

    @property
    def provided(self) -> bool:
        """Whether its node types are those of this package."""
        return self.name in _PROVIDED
