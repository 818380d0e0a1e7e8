"""What sets and releases say of themselves: read, or refused with what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llamacore.companions.facts import is_safe, parse_facts
from llamacore.companions.manifest import parse_manifest
from llamacore.errors import CompanionError, DamagedSetError, IncompatibleSetError, PlatformNotPublishedError

HASH = "a" * 64
FACTS: dict[str, Any] = {
    "schema": 1,
    "kind": "base",
    "name": "llamacore",
    "version": "1.2.3",
    "platform": "x86_64-linux",
    "backends": ["cpu", "rpc"],
    "llama_cpp": {"version": "0.5.0", "commit": "abc"},
    "gate": {"structs": {"llama_batch": 56}},
    "glibc": "2.34",
    "libraries": ["liba.so"],
    "modules": [],
    "requires": [{"library": "libcuda.so.1", "what": "the driver", "hint": "install it", "more": 1}],
    "files": {"lib/liba.so": {"sha256": HASH.upper(), "size": 3}, "licenses/LICENSE": {"sha256": HASH, "size": 4}},
    "from_the_future": {"a": 1},
}


def parse(**changes: Any) -> Any:
    return parse_facts(json.dumps({**FACTS, **changes}).encode(), "it")


def test_everything_is_read():
    facts = parse()
    assert ("base", "1.2.3", "x86_64-linux", ("cpu", "rpc")) == (
        facts.kind,
        facts.version,
        facts.platform,
        facts.backends,
    )
    assert ("0.5.0", "abc", {"llama_batch": 56}, "2.34") == (
        facts.llama_cpp,
        facts.commit,
        facts.structs,
        facts.glibc,
    )
    assert (HASH, 3, 7) == (facts.files["lib/liba.so"].sha256, facts.files["lib/liba.so"].size, facts.size)
    assert "libcuda.so.1" == facts.requires[0].library
    assert "llamacore-1.2.3-x86_64-linux" == facts.folder_name
    addon = parse(kind="addon", backends=["cuda"], gate=None)
    assert "llamacore-1.2.3-x86_64-linux-cuda" == addon.folder_name
    assert parse(glibc=None).glibc is None


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "other"},
        {"name": "something"},
        {"version": 1},
        {"backends": "cpu"},
        {"backends": []},
        {"backends": ["cpu", "../.."]},
        {"kind": "addon", "backends": [".."]},
        {"kind": "addon", "backends": ["a/b"]},
        {"kind": "addon"},  # of two back ends
        {"llama_cpp": None},
        {"llama_cpp": {"version": "0.5.0"}},
        {"gate": {"structs": {"a": -1}}},
        {"gate": {"structs": {"a": True}}},
        {"glibc": "newest"},
        {"libraries": ["libb.so"]},
        {"modules": ["../../liba.so"]},
        {"requires": ["libcuda.so.1"]},
        {"files": []},
        {"files": {}},
        {"files": {"lib/liba.so": {"sha256": "short", "size": 3}}},
        {"files": {"lib/liba.so": {"sha256": HASH, "size": 1 << 50}}},
        {"files": {"lib/liba.so": {"sha256": HASH, "size": "3"}}},
        {"files": {**FACTS["files"], "companion.json": {"sha256": HASH, "size": 3}}},
        {"files": {**FACTS["files"], "../x": {"sha256": HASH, "size": 3}}},
        {"files": {**FACTS["files"], "LIB/x": {"sha256": HASH, "size": 3}}},
        {"files": {**FACTS["files"], "lib/LIBA.so": {"sha256": HASH, "size": 3}}},
        {"files": {**FACTS["files"], "lib": {"sha256": HASH, "size": 3}}},
        {"files": {**FACTS["files"], "lib/liba.so/x": {"sha256": HASH, "size": 3}}},
        {"version": "../../x"},
        {"platform": "a/b"},
        {"schema": None},
        {"schema": "1"},
        {"schema": True},
    ],
)
def test_what_is_not_sound_is_refused(changes: dict[str, Any]):
    with pytest.raises(DamagedSetError, match="it"):
        parse(**changes)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_what_is_no_description_is_refused(raw: bytes):
    with pytest.raises(DamagedSetError):
        parse_facts(raw, "it")
    with pytest.raises(DamagedSetError):
        parse_manifest(raw, "it", "x86_64-linux")


def test_another_schema_asks_for_an_upgrade():
    with pytest.raises(IncompatibleSetError, match=r"schema 2.*upgrade"):
        parse(schema=2)
    with pytest.raises(IncompatibleSetError, match=r"schema 9.*upgrade"):
        parse_manifest(b'{"schema": 9, "platforms": {}}', "it", "x86_64-linux")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("lib/libggml-base.so.0", True),
        ("lib/libstdc++.so.6", True),
        ("LICENSE", True),
        ("", False),
        ("/etc/passwd", False),
        ("../x", False),
        ("lib/../x", False),
        ("lib//x", False),
        ("lib/", False),
        (".hidden", False),
        ("lib/.", False),
        ("a\\b", False),
        ("c:x", False),
        ("a\0b", False),
        ("a\nb", False),
        ("a b", False),
        ("ends.", False),
        ("ü", False),
        ("a" * 129, False),
        ("a/" * 8 + "a", False),
    ],
)
def test_names_that_stay_where_they_are_put(name: str, safe: bool):
    assert is_safe(name) is safe


MANIFEST: dict[str, Any] = {
    "schema": 1,
    "name": "llamacore",
    "version": "v1.2.3",
    "platforms": {
        "x86_64-linux": {
            "file": "x.whl",
            "sha256": HASH,
            "companions": "base.tar.gz",
            "companions_sha256": HASH.upper(),
            "addons": {"cuda": {"file": "cuda.tar.gz", "sha256": HASH, "size": 5, "wheel": None}},
            "llama_cpp": {"version": "0.5.0", "commit": "abc"},
            "size": 7,
        },
        "aarch64-darwin": {"file": "y.whl", "sha256": HASH, "companions": "mac.tar.gz", "companions_sha256": HASH},
        "x86_64-windows": {"file": "z.whl", "sha256": HASH},
    },
    "from_the_future": [],
}


def read(content: Any, platform: str = "x86_64-linux") -> Any:
    return parse_manifest(json.dumps(content).encode(), "it", platform)


def test_a_manifest_is_read_for_a_platform():
    release = read(MANIFEST)
    assert ("v1.2.3", "base.tar.gz", HASH, 7, "abc") == (
        release.version,
        release.base.file,
        release.base.sha256,
        release.base.size,
        release.commit,
    )
    assert ("cuda.tar.gz", 5, "cuda") == (
        release.addons["cuda"].file,
        release.addons["cuda"].size,
        release.addons["cuda"].backend,
    )
    mac = read(MANIFEST, "aarch64-darwin")
    assert ("mac.tar.gz", {}, None, None) == (mac.base.file, mac.addons, mac.base.size, mac.commit)


@pytest.mark.parametrize("platform", ["x86_64-windows", "aarch64-linux", ""])
def test_a_platform_without_a_set_lists_those_that_have_one(platform: str):
    with pytest.raises(PlatformNotPublishedError, match=r"x86_64-linux, aarch64-darwin"):
        read(MANIFEST, platform)


@pytest.mark.parametrize(
    "changes",
    [
        {"companions": "../base.tar.gz"},
        {"companions": "a/base.tar.gz"},
        {"companions": "https://elsewhere"},
        {"companions": 5},
        {"companions_sha256": "x"},
        {"companions_sha256": None},
        {"addons": {"cuda": {"file": "cuda.tar.gz"}}},
        {"addons": ["cuda"]},
        {"addons": {"cuda": {"file": "cuda.tar.gz", "sha256": HASH, "size": -1}}},
        {"llama_cpp": 5},
    ],
)
def test_an_entry_that_is_not_sound_is_refused(changes: dict[str, Any]):
    entry = {**MANIFEST["platforms"]["x86_64-linux"], **changes}
    with pytest.raises(DamagedSetError, match="x86_64-linux"):
        read({**MANIFEST, "platforms": {"x86_64-linux": entry}})


@pytest.mark.parametrize("content", [{"schema": 1}, {"platforms": {}}, {"schema": 1, "platforms": []}])
def test_what_is_no_manifest_is_refused(content: Any):
    with pytest.raises(DamagedSetError):
        read(content)


JUNK: tuple[Any, ...] = (None, True, 0, -1, 1.5, 1e400, "", "x", "/", [], [[]], [None], {}, {"a": 1}, {"": {}})


def mutated(value: Any) -> Iterator[Any]:
    """A value with each of its parts replaced by each kind of junk, or left out."""
    yield from JUNK
    if isinstance(value, dict):
        for key, part in value.items():
            yield {name: other for name, other in value.items() if name != key}
            for changed in mutated(part):
                yield {**value, key: changed}
    elif isinstance(value, list):
        for place, part in enumerate(value):
            for changed in mutated(part):
                yield [*value[:place], changed, *value[place + 1 :]]


def test_junk_anywhere_is_an_error_of_ours():
    """Whatever stands where in a description or a manifest: it is read, or refused with a reason."""
    refused = 0
    for read_it, sound in ((lambda raw: parse_facts(raw, "it"), FACTS), (manifest_of_linux, MANIFEST)):
        for content in mutated(sound):
            try:
                read_it(json.dumps(content).encode())
            except CompanionError as error:
                assert error.message
                refused += 1
    assert refused > 500


def manifest_of_linux(raw: bytes) -> Any:
    return parse_manifest(raw, "it", "x86_64-linux")
