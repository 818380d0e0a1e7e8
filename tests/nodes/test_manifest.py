"""Manifests: everything that version v1 has is read, what is wrong is named by its path."""

from __future__ import annotations

import copy
import json
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llamacore as lc
from llamacore.nodes.manifest import Manifest
from llamacore.nodes.manifest_parts import Connection, PluginSpec

MINIMAL: dict[str, Any] = {"version": "v1", "nodes": [{"id": "llm", "node_type": "LlamaCppGenerationNode"}]}

EVERYTHING: dict[str, Any] = {
    "version": "v1",
    "metadata": {
        "name": "all of it",
        "description": "every field",
        "created_at": "2026-01-01T00:00:00Z",
        "auto_negotiate": True,
        "strict_capabilities": True,
        "default_python_runtime": "glibc",
    },
    "nodes": [
        {
            "id": "a",
            "node_type": "A",
            "params": {"x": [1, {"y": None}]},
            "is_streaming": True,
            "is_output_node": True,
            "capabilities": {
                "gpu": {"type": "cuda", "min_memory_gb": 8, "required": False},
                "cpu": {"cores": 4, "arch": "x86_64"},
                "memory_gb": 16.5,
            },
            "media_capabilities": {"inputs": {"default": {"media_type": "text"}}},
            "host": "elsewhere",
            "runtime_hint": "cpython_wasm",
            "execution": {"placement": "remote", "reason": "gpu", "fallback": "b"},
            "docker": {"image": "x"},
            "fast_path": True,
            "python_deps": ["numpy"],
            "python_env": {"scope": "per_node"},
        },
        {"id": "b", "node_type": "B"},
    ],
    "connections": [{"from": "a", "to": "b", "from_port": "ui", "to_port": "context"}, {"from": "a", "to": "b"}],
    "plugins": [
        "llama-cpp@v0.2.0",
        "owner/repo@v1",
        "https://example.com/lib.so",
        "./local.so",
        {"name": "foo", "version": "v1.2.3"},
        {"url": "https://example.com/libfoo.so", "sha256": "abc"},
        {"path": "./nodes.py"},
    ],
    "python_env": {"python_version": "3.12", "scope": "global", "extra_deps": ["numpy"]},
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The manifest with everything, with another value at a path; ... takes the key away."""
    made = copy.deepcopy(EVERYTHING)
    *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    item: Any = made
    for key in way:
        item = item[key]
    if value is ...:
        del item[last]
    else:
        item[last] = value
    return made


def test_the_least_there_can_be():
    manifest = Manifest.parse(MINIMAL)
    assert manifest.metadata.name == ""
    assert manifest.connections == manifest.plugins == manifest.not_used == ()
    node = manifest.nodes[0]
    assert (node.id, node.params, node.is_streaming, node.is_output_node) == ("llm", {}, False, False)


def test_every_field_is_kept():
    manifest = Manifest.parse(EVERYTHING)
    a, b = manifest.nodes
    assert manifest.metadata.description == "every field"
    assert a.params == {"x": [1, {"y": None}]}
    assert a.is_streaming and a.is_output_node and a.fast_path
    assert a.capabilities.gpu.min_memory_gb == 8.0
    assert not a.capabilities.gpu.required
    assert a.capabilities.cpu == {"cores": 4, "arch": "x86_64"}
    assert a.capabilities.memory_gb == 16.5
    assert (a.host, a.runtime_hint, a.docker) == ("elsewhere", "cpython_wasm", {"image": "x"})
    assert (a.execution.placement, a.execution.reason, a.execution.fallback) == ("remote", "gpu", "b")
    assert (a.python_deps, a.python_env.scope) == (("numpy",), "per_node")
    assert b.capabilities is None
    assert manifest.connections == (Connection("a", "b", "ui", "context"), Connection("a", "b"))
    assert manifest.python_env.extra_deps == ("numpy",)


def test_what_is_not_used_is_reported_by_path():
    said = Manifest.parse(EVERYTHING).not_used
    for path in (
        "metadata.auto_negotiate", "metadata.strict_capabilities", "metadata.default_python_runtime",
        "nodes[0].capabilities", "nodes[0].media_capabilities", "nodes[0].host", "nodes[0].runtime_hint",
        "nodes[0].execution", "nodes[0].docker", "nodes[0].fast_path", "nodes[0].python_deps", "nodes[0].python_env",
        "python_env", "plugins[1]", "plugins[2]", "plugins[3]", "plugins[4]", "plugins[5]",
    ):  # fmt: skip
        assert any(line.startswith(f"{path} ") for line in said), path
    assert not any(line.startswith(("plugins[0]", "plugins[6]", "nodes[1]")) for line in said)
    here = changed("nodes.0.execution", {"placement": "prefer_local"})
    here["nodes"][0]["runtime_hint"] = "cpython"
    assert not any("runtime_hint" in line or "execution" in line for line in Manifest.parse(here).not_used)


def test_plugins():
    plugins = Manifest.parse(EVERYTHING).plugins
    assert plugins == (
        PluginSpec(name="llama-cpp", version="v0.2.0"),
        PluginSpec(name="owner/repo", version="v1"),
        PluginSpec(url="https://example.com/lib.so"),
        PluginSpec(path="./local.so"),
        PluginSpec(name="foo", version="v1.2.3"),
        PluginSpec(url="https://example.com/libfoo.so", sha256="abc"),
        PluginSpec(path="./nodes.py"),
    )
    assert [plugin.provided for plugin in plugins] == [True, *[False] * 6]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("version", "v2", "version is 'v2'"),
        ("version", ..., "version is missing"),
        ("nodes", [], "nodes is empty"),
        ("nodes", ..., "nodes is empty"),
        ("nodes", {"a": 1}, "nodes is {'a': 1}"),
        ("nodes.1", "b", "nodes[1] is 'b'"),
        ("nodes.1.id", ..., "nodes[1].id is missing"),
        ("nodes.1.id", "", "nodes[1].id is ''"),
        ("nodes.1.id", 7, "nodes[1].id is 7"),
        ("nodes.1.id", "a", "nodes[1].id is 'a', as nodes[0].id"),
        ("nodes.1.id", "__system__", "nodes[1].id is '__system__'"),
        ("nodes.1.node_type", ..., "nodes[1].node_type is missing"),
        ("nodes.1.params", [1], "nodes[1].params is [1]"),
        ("nodes.1.parms", {}, "nodes[1].parms means nothing"),
        ("nodes.0.is_streaming", "yes", "nodes[0].is_streaming is 'yes'"),
        ("nodes.0.capabilities.gpu.type", ..., "nodes[0].capabilities.gpu.type is missing"),
        ("nodes.0.capabilities.gpu.min_memory_gb", -1, "nodes[0].capabilities.gpu.min_memory_gb is -1"),
        ("nodes.0.capabilities.cpu.cores", 1.5, "nodes[0].capabilities.cpu.cores is 1.5"),
        ("nodes.0.capabilities.memory_gb", float("nan"), "nodes[0].capabilities.memory_gb is nan"),
        ("nodes.0.runtime_hint", "pypy", "nodes[0].runtime_hint is 'pypy'"),
        ("nodes.0.execution.placement", "moon", "nodes[0].execution.placement is 'moon'"),
        ("nodes.0.python_deps.0", 3, "nodes[0].python_deps[0] is 3"),
        ("connections.1.from", "c", "connections[1].from is 'c', which is no node"),
        ("connections.1.to", "c", "connections[1].to is 'c', which is no node"),
        ("connections.1.to", "a", "connections[1] closes a circle: a -> a"),
        ("connections.0", {"from": "a", "to": "b"}, "connections[1] is there twice"),
        ("plugins.0", "", "plugins[0] is ''"),
        ("plugins.0", "@v1", "plugins[0] is '@v1'"),
        ("plugins.0", {"version": "v1"}, "plugins[0] has no source"),
        ("plugins.4.url", "https://x", "plugins[4] has url and name"),
        ("metadata.name", 3, "metadata.name is 3"),
        ("metadata.nmae", "x", "metadata.nmae means nothing"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(path, value, said):
    with pytest.raises(lc.InvalidArgumentError) as caught:
        Manifest.parse(changed(path, value))
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_key_of_others_is_reported():
    manifest = Manifest.parse({**MINIMAL, "$schema": "https://example.com/manifest.v1.json"})
    assert manifest.not_used == ("$schema is unknown and not used",)


def test_a_longer_circle():
    made = changed("connections", [
        {"from": "a", "to": "b"}, {"from": "b", "to": "c"}, {"from": "c", "to": "b"},
    ])  # fmt: skip
    made["nodes"].append({"id": "c", "node_type": "C"})
    with pytest.raises(lc.InvalidArgumentError, match=r"closes a circle: b -> c -> b|c -> b -> c"):
        Manifest.parse(made)
    made["connections"][2]["to_port"] = "barge_in"
    assert len(Manifest.parse(made).connections) == 3


def test_it_is_frozen():
    source = copy.deepcopy(EVERYTHING)
    manifest = Manifest.parse(source)
    source["nodes"][0]["params"]["x"] = "changed"
    assert isinstance(manifest.nodes[0].params, MappingProxyType)
    assert manifest.nodes[0].params["x"] == [1, {"y": None}]
    with pytest.raises(AttributeError):
        manifest.nodes[0].id = "other"


def test_files(tmp_path):
    path = tmp_path / "pipeline.json"
    path.write_text("\ufeff" + json.dumps(EVERYTHING), "utf-8")
    manifest = Manifest.load(path)
    assert manifest.folder == tmp_path
    assert manifest.nodes == Manifest.parse(EVERYTHING).nodes == Manifest.parse(json.dumps(EVERYTHING)).nodes
    with pytest.raises(FileNotFoundError):
        Manifest.load(tmp_path / "missing.json")
    for text, said in (
        ("{", "is no JSON"),
        ('{"version": "v1", "version": "v1"}', "the key 'version' is there twice"),
        ("[1]", "the manifest is [1]"),
        ('{"version": "v9"}', "version is 'v9'"),
        ("[" * 100_000, "is nested too deeply"),
    ):
        path.write_text(text)
        with pytest.raises(lc.InvalidArgumentError, match=r"pipeline\.json") as caught:
            Manifest.load(path)
        assert said in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(lc.InvalidArgumentError, match="not UTF-8"):
        Manifest.load(path)


def test_yaml(tmp_path):
    pytest.importorskip("yaml", reason="YAML needs PyYAML")
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        "version: v1\nnodes:\n  - id: a\n    node_type: A\n    params: {model_path: m.gguf, seed: 3}\n"
        "  - {id: b, node_type: B}\nconnections:\n  - {from: a, to: b}\n"
    )
    manifest = Manifest.load(path)
    assert [node.id for node in manifest.nodes] == ["a", "b"]
    assert manifest.nodes[0].params == {"model_path": "m.gguf", "seed": 3}
    path.write_text("version: [v1\n")
    with pytest.raises(lc.InvalidArgumentError, match="is no YAML"):
        Manifest.load(path)
    path.write_text("version: v1\nnodes: [{id: a, node_type: A, on: true}]\n")
    with pytest.raises(lc.InvalidArgumentError, match=r"nodes\[0\]: the key True is no text"):
        Manifest.load(path)


def test_yaml_without_pyyaml(tmp_path, monkeypatch):
    path = tmp_path / "pipeline.yml"
    path.write_text("version: v1\n")
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(lc.UnsupportedError, match="PyYAML"):
        Manifest.load(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats() | st.sampled_from(["", "v1", "a", "b", "default"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["version", "nodes", "id", "node_type", "params", "connections", "from", "to", "plugins", "name", "gpu", "type"]
    ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES, st.sampled_from(["", "nodes", "nodes.0", "nodes.0.capabilities", "connections", "plugins", "metadata"]))
def test_garbage_is_an_error_of_ours_or_a_manifest(value, where):
    try:
        Manifest.parse(changed(where, value) if where else value)
    except lc.InvalidArgumentError as error:
        assert str(error)
