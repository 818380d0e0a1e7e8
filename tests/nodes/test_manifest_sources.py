"""The model files that manifests list: which are here, which are the right ones, and fetching from a hub."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest

import llamacore as lc
from llamacore.nodes.manifest import Manifest
from llamacore.nodes.manifest_sources import fetch_source, model_sources, node_params, require_sources
from llamacore.nodes.pipeline import Pipeline
from llamacore.testing import tiny_model

sys.path.append(str(Path(__file__).parents[1]))
from hub_server import Hub, serving


def manifest(folder: Path, *files: Any) -> Manifest:
    node = {"id": "llm", "node_type": "LlamaCppGenerationNode", "params": {"model_sources": {"files": list(files)}}}
    return Manifest.parse({"version": "v1", "nodes": [node]}, folder=folder)


def test_what_is_listed(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.gguf").write_bytes(b"12345")
    made = manifest(
        tmp_path,
        {"path": "models/a.gguf", "filename": "a.gguf", "source": "local", "size": 5, "license": "MIT"},
        {"path": "models/a.gguf", "filename": "a.gguf", "size": 6},
        {"path": "b.gguf", "filename": "owner/repo/b.gguf", "required": False, "revision": "abc", "cache_key": "k"},
        {"path": "/c.gguf", "source": "http", "url": "https://example.com/c.gguf", "embed": True, "sha256": "A" * 64},
    )
    a, wrong_size, b, c = model_sources(made)
    assert (a.node, a.location, a.exists, a.license, a.source) == (
        "llm",
        tmp_path / "models/a.gguf",
        True,
        "MIT",
        "local",
    )
    assert not wrong_size.exists
    assert (b.required, b.revision, b.cache_key, b.source, b.exists) == (False, "abc", "k", "huggingface", False)
    assert (c.location, c.embed, c.sha256, c.filename) == (Path("/c.gguf"), True, "a" * 64, "c.gguf")
    with pytest.raises(lc.ModelNotFoundError) as caught:
        require_sources(made)
    assert "a.gguf" in str(caught.value) and "c.gguf" in str(caught.value) and "b.gguf" not in str(caught.value)
    assert "--fetch" in caught.value.hint
    with pytest.raises(lc.ModelNotFoundError, match=r"node 'llm', from https://example\.com/c\.gguf"):
        Pipeline(made)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"filename": "x"}, "nodes[0].params.model_sources.files[0].path is missing"),
        ({"path": "x", "source": "ftp"}, "nodes[0].params.model_sources.files[0].source is 'ftp'"),
        ({"path": "x", "sha256": "abc"}, "nodes[0].params.model_sources.files[0].sha256 is 'abc'"),
        ({"path": "x", "size": -1}, "nodes[0].params.model_sources.files[0].size is -1"),
        ({"path": "x", "pth": 1}, "nodes[0].params.model_sources.files[0].pth means nothing"),
        ("x", "nodes[0].params.model_sources.files[0] is 'x'"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(tmp_path, entry, said):
    with pytest.raises(lc.InvalidArgumentError) as caught:
        model_sources(manifest(tmp_path, entry))
    assert str(caught.value).startswith(said)


def test_a_file_must_be_the_one_that_is_meant(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"12345")
    right = hashlib.sha256(b"12345").hexdigest()
    require_sources(manifest(tmp_path, {"path": "a.gguf", "sha256": right.upper()}))
    with pytest.raises(lc.InvalidArgumentError, match="SHA-256"):
        require_sources(manifest(tmp_path, {"path": "a.gguf", "sha256": "0" * 64}))


def test_fetching_from_a_hub(tmp_path, monkeypatch):
    """The file appears in its place when it is whole, and only if it is the right one."""
    pytest.importorskip("huggingface_hub")
    data = tiny_model(tmp_path / "tiny.gguf").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with serving(Hub({"owner/repo": {"model-Q8_0.gguf": data}})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        for module in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
            monkeypatch.delitem(sys.modules, module)  # it reads its environment when it is imported
        by_name = {"path": "models/m.gguf", "filename": "owner/repo/model-Q8_0.gguf", "sha256": digest}
        require_sources(manifest(tmp_path, by_name), fetch=True)
        assert (tmp_path / "models" / "m.gguf").read_bytes() == data
        assert [path.name for path in (tmp_path / "models").iterdir()] == ["m.gguf"]
        fetched = len(server.fetched())
        require_sources(manifest(tmp_path, by_name), fetch=True)
        assert len(server.fetched()) == fetched
        url = "https://example.com/owner/repo/resolve/main/model-Q8_0.gguf?download=true"
        require_sources(manifest(tmp_path, {"path": "models/n.gguf", "url": url}), fetch=True)
        assert (tmp_path / "models" / "n.gguf").read_bytes() == data
        wrong = {**by_name, "path": "models/o.gguf", "sha256": "0" * 64}
        with pytest.raises(lc.InvalidArgumentError, match="SHA-256"):
            require_sources(manifest(tmp_path, wrong), fetch=True)
        assert not (tmp_path / "models" / "o.gguf").exists()


def test_what_no_hub_has_is_fetched_by_hand(tmp_path):
    for entry in (
        {"path": "a.gguf", "source": "http", "url": "https://example.com/a.gguf"},
        {"path": "a.gguf", "source": "local"},
        {"path": "a.gguf", "filename": "a.gguf"},
    ):
        (item,) = model_sources(manifest(tmp_path, entry))
        with pytest.raises(lc.UnsupportedError, match=r"by hand to .*a\.gguf"):
            fetch_source(item)


def test_paths_are_relative_to_the_manifest():
    folder = Path("/pipelines")
    given = {
        "model_path": "m.gguf", "model_sources": {"files": []}, "seed": 3,
        "generation": {"model_path": "../n.gguf", "top_k": 1}, "tools": [{"model_path": "x"}],
        "vectors": [{"label": "joy", "path": "joy.gguf"}],
    }  # fmt: skip
    assert node_params(given, folder) == {
        "model_path": "/pipelines/m.gguf", "seed": 3, "tools": [{"model_path": "x"}],
        "generation": {"model_path": "/pipelines/../n.gguf", "top_k": 1},
        "vectors": [{"label": "joy", "path": "/pipelines/joy.gguf"}],
    }  # fmt: skip
    for same in ("demo", "", "/abs/m.gguf"):
        assert node_params({"model_path": same}, folder) == {"model_path": same}
