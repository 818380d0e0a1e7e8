"""Archives, sidecars, descriptions and manifest of the libraries that are installed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from packaging_fixtures import DATE

from build_support.builder import pin
from build_support.config import BuildConfig
from build_support.errors import BuildError
from build_support.packaging import package
from build_support.platforms import this_platform
from build_support.process import Console
from build_support.release_manifest import MANIFEST, added, merged, read_manifest
from build_support.sbom import PARTS, UPSTREAM_TEXT
from build_support.source import pinned_source, sha256_of
from build_support.versions import project_version

ROOT = Path(__file__).resolve().parents[2]
VERSION = project_version(ROOT)
TOP = f"llamacore-{VERSION}-{this_platform()}"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF libraries")


def test_the_files_of_a_release_lie_in_the_folder(packaged: Any):
    archive, document = f"{TOP}-companions.tar.gz", f"{TOP}-companions.spdx.json"
    assert {path.name for path in packaged.folder.iterdir()} == {
        archive,
        f"{archive}.sha256",
        document,
        f"{document}.sha256",
        MANIFEST,
    }
    for name in (archive, document):
        digest = hashlib.sha256((packaged.folder / name).read_bytes()).hexdigest()
        assert (packaged.folder / f"{name}.sha256").read_text() == digest


def test_the_manifest_names_them(packaged: Any, validate):
    manifest = validate(packaged.folder / MANIFEST, "release-manifest")
    assert manifest["version"] == f"v{VERSION}"
    entry = manifest["platforms"][this_platform()]
    archive = packaged.folder / f"{TOP}-companions.tar.gz"
    assert entry["companions"] == entry["file"] == archive.name
    assert entry["companions_sha256"] == entry["sha256"] == sha256_of(archive)
    assert entry["size"] == archive.stat().st_size
    assert entry["llama_cpp"] == {"version": pin().version, "commit": pin().commit}
    assert entry["addons"] == {}
    assert (packaged.folder / MANIFEST).read_text().startswith('{\n  "schema": 1,\n')


def test_the_description_fits_the_set(packaged: Any, unpacked: Path, validate):
    description = validate(unpacked / "companion.json", "companion")
    assert unpacked.name == TOP
    files = {path.relative_to(unpacked).as_posix(): path for path in unpacked.rglob("*") if path.is_file()}
    assert files.keys() == {*description["files"], "companion.json"}
    for name, stated in description["files"].items():
        assert stated == {"sha256": sha256_of(files[name]), "size": files[name].stat().st_size}
    listed = {f"lib/{name}" for name in (*description["libraries"], *description["modules"])}
    assert {name for name in files if name.startswith("lib/") and ".so" in name} == listed
    assert not any(path.is_symlink() for path in unpacked.rglob("*"))
    entry = packaged.entry
    for key in ("backends", "glibc", "llama_cpp", "gate", "profile"):
        assert description[key] == entry[key], key


def test_the_gate_values_are_those_of_the_libraries(packaged: Any):
    from llamacore_sys import ffi, lib

    structs = packaged.entry["gate"]["structs"]
    assert {"llama_model_params", "llama_context_params", "llama_batch"} <= structs.keys()
    for name, size in structs.items():
        assert size == lib.llc_struct_size(name.encode()) == ffi.sizeof(f"struct {name}")


def test_the_set_can_be_loaded_from_where_it_lies(unpacked: Path, run_python):
    code = (
        "import llamacore_sys as s, os\n"
        "assert os.path.samefile(s.lib_dir, os.environ['EXPECTED']), s.lib_dir\n"
        "import llamacore as lc\n"
        "with lc.Llama(n_threads=1) as llm: print(llm.generate('Once', max_tokens=4, seed=1).text)"
    )
    result = run_python(code, LLAMACORE_LIB_DIR=str(unpacked / "lib"), EXPECTED=str(unpacked / "lib"))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


def test_no_path_of_this_machine_is_in_it(unpacked: Path):
    checkout = str(ROOT).encode()
    for path in unpacked.rglob("*"):
        if path.is_file() and ".so" not in path.name:  # the libraries are those of this machine's own build
            assert checkout not in path.read_bytes(), path


def test_licences_and_parts_are_those_of_the_source(unpacked: Path, console: Console):
    texts = {path.name for path in (ROOT / "llamacore_sys" / "licenses").iterdir()}
    assert {path.name for path in (unpacked / "licenses").iterdir()} == {*texts, "LICENSE"}
    assert texts == {UPSTREAM_TEXT, *(part.text for part in PARTS if part.text)}
    source = pinned_source(pin(), console).path
    vendored = (*(source / "vendor").iterdir(), *(source / "vendor" / "hash").iterdir())
    folders = {path.relative_to(source).as_posix() for path in vendored if path.is_dir()} - {"vendor/hash"}
    assert folders <= {part.path for part in PARTS}


def test_the_bill_of_materials_is_spdx(packaged: Any, unpacked: Path):
    text = (unpacked / "sbom.spdx.json").read_text()
    assert text == (packaged.folder / packaged.entry["sbom"]).read_text()
    document = json.loads(text)
    # what SPDX 2.3 requires
    assert document["spdxVersion"] == "SPDX-2.3"
    assert document["dataLicense"] == "CC0-1.0"
    assert document["SPDXID"] == "SPDXRef-DOCUMENT"
    assert document["name"] == TOP
    assert document["documentNamespace"].startswith("https://")
    assert "#" not in document["documentNamespace"]
    assert document["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    assert document["creationInfo"]["creators"][0].startswith("Tool: ")
    ids = [part["SPDXID"] for part in document["packages"]]
    assert len(ids) == len(set(ids)) == len(PARTS) + 2
    for part in document["packages"]:
        assert part.keys() >= {"SPDXID", "name", "downloadLocation", "licenseConcluded", "licenseDeclared"}
        assert part["filesAnalyzed"] is False
        assert part["SPDXID"].replace("-", "").replace(".", "").isalnum()
    known = {"SPDXRef-DOCUMENT", *ids}
    for relation in document["relationships"]:
        assert {relation["spdxElementId"], relation["relatedSpdxElement"]} <= known
    assert {relation["relatedSpdxElement"] for relation in document["relationships"]} == set(ids)
    used = {part["licenseDeclared"] for part in document["packages"]}
    own = {info["licenseId"] for info in document["hasExtractedLicensingInfos"]}
    assert own == {licence for licence in used if licence.startswith("LicenseRef-")}
    versions = {part["name"]: part.get("versionInfo") for part in document["packages"]}
    assert versions["llama.cpp"] == pin().version
    assert all(versions[part.name] for part in PARTS if part.version)


def test_two_checkouts_make_the_same_files(checkout, installed: Path, tmp_path: Path):
    sets = []
    for name in ("first", "a-second-one/deeper"):
        made = checkout(name)
        done = made.build_lib("package", "--from-dir", installed, "--output", "out put")
        assert done.returncode == 0, done.stderr
        assert "packaged: 4 files" in done.stderr
        sets.append({path.name: path.read_bytes() for path in (made.root / "out put").iterdir()})
        assert made.git("status", "--porcelain") == '?? "out put/"'
    assert sets[0] == sets[1]


def test_other_platforms_of_the_same_version_are_kept(installed: Path, tmp_path: Path, console: Console):
    old = {"schema": 1, "name": "llamacore", "version": f"v{VERSION}", "platforms": {"aarch64-darwin": {"file": "x"}}}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(old))
    package(BuildConfig(), tmp_path / "out", console, from_dirs=[installed])
    after = read_manifest(tmp_path / "out" / MANIFEST)
    assert after is not None
    assert list(after["platforms"]) == ["aarch64-darwin", this_platform()]
    assert after["platforms"]["aarch64-darwin"] == {"file": "x"}
    another = merged(after, "v99.0.0", this_platform(), {"file": "y"})
    assert another["platforms"] == {this_platform(): {"file": "y"}}


def test_a_failure_leaves_nothing_behind(installed: Path, tmp_path: Path, console: Console):
    (tmp_path / "empty").mkdir()
    before = {path.name for path in (ROOT / "build").iterdir()} if (ROOT / "build").exists() else set()
    with pytest.raises(BuildError, match="no libraries"):
        package(BuildConfig(), tmp_path / "out", console, from_dirs=[tmp_path / "empty"])
    lone = tmp_path / "lone"
    lone.mkdir()
    shim = next((installed / "lib").glob("libllamacore_shim*"))
    shutil.copy(shim, lone)
    with pytest.raises(BuildError, match="neither in the set nor"):
        package(BuildConfig(), tmp_path / "out", console, from_dirs=[lone])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text("{}")
    with pytest.raises(BuildError, match="cannot be read"):
        package(BuildConfig(), tmp_path / "out", console, from_dirs=[installed])
    assert (tmp_path / "out" / MANIFEST).read_text() == "{}"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [MANIFEST]
    left = {path.name for path in (ROOT / "build").iterdir() if path.name.startswith("packaging-")} - before
    assert left == set()


def test_a_folder_that_cannot_be_written_is_explained(installed: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, str(ROOT / "build_lib.py"), "package", "--from-dir", str(installed)]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "file" / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "error: a file cannot be read or written" in done.stderr
    assert "Traceback" not in done.stderr


def test_libraries_that_do_not_fit_the_extension_are_refused(installed: Path, tmp_path: Path, console: Console):
    """One whose commit was changed by a hand in its bytes."""
    changed = tmp_path / "changed"
    shutil.copytree(installed, changed, ignore=shutil.ignore_patterns("__pycache__"))
    commit = pin().commit.encode()
    files = [path for path in (changed / "lib").iterdir() if commit in path.read_bytes()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes().replace(commit, b"0" * len(commit)))
    with pytest.raises(BuildError, match=r"cannot be imported.*commit 000000000"):
        package(BuildConfig(), tmp_path / "out", console, from_dirs=[changed])
    assert not (tmp_path / "out").exists()


def test_addons_join_a_release_and_change_nothing_in_it():
    addon = {"file": "a", "sha256": "1", "size": 1, "requires": [], "wheel": None, "wheel_sha256": None}
    entry = {"file": "base", "sha256": "0", "addons": {"cuda": addon}}
    first = added(None, "v1.0.0", "x86_64-linux", entry)
    second = added(first, "v1.0.0", "x86_64-linux", {**entry, "addons": {"blas": addon}})
    assert list(second["platforms"]["x86_64-linux"]["addons"]) == ["blas", "cuda"]
    with pytest.raises(BuildError, match="another sha256"):
        added(first, "v1.0.0", "x86_64-linux", {**entry, "sha256": "2"})
    with pytest.raises(BuildError, match="another add-on cuda"):
        added(first, "v1.0.0", "x86_64-linux", {**entry, "addons": {"cuda": {**addon, "sha256": "2"}}})
    with pytest.raises(BuildError, match=r"is of v1\.0\.0"):
        added(first, "v1.0.1", "x86_64-linux", entry)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_an_addon_is_an_archive_of_its_own(
    packaged: Any, installed: Path, tmp_path: Path, console: Console, validate, monkeypatch: pytest.MonkeyPatch
):
    """A module that is linked with the base and with what a machine has to have, as a back end for Vulkan is."""
    base = next((installed / "lib").glob("*ggml-base*"))
    vulkan, module = tmp_path / "libvulkan.so.1", tmp_path / "addon" / "libggml-vulkan.so"
    module.parent.mkdir()
    link = ["cc", "-shared", "-x", "c", "/dev/null", "-x", "none", "-Wl,--no-as-needed"]
    for target, others in ((vulkan, []), (module, [base, vulkan])):
        subprocess.run([*link, f"-Wl,-soname,{target.name}", "-o", target, *others], check=True)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(DATE))
    config = BuildConfig(backends=("vulkan",))
    made = package(config, tmp_path / "out", console, from_dirs=[installed, module.parent])

    manifest = validate(made.folder / MANIFEST, "release-manifest")
    entry = manifest["platforms"][this_platform()]
    addon = entry.pop("addons")["vulkan"]
    assert {**entry, "addons": {}} == packaged.entry, "the base does not change"
    archive = made.folder / f"{TOP}-vulkan.tar.gz"
    assert addon["file"] == archive.name
    assert addon["sha256"] == sha256_of(archive) == (made.folder / f"{archive.name}.sha256").read_text()
    assert [item["library"] for item in addon["requires"]] == ["libvulkan.so.1"]

    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "elsewhere")
    top = tmp_path / "elsewhere" / f"{TOP}-vulkan"
    description = validate(top / "companion.json", "companion")
    assert description["kind"] == "addon"
    assert description["backends"] == ["vulkan"]
    assert (description["libraries"], description["modules"]) == ([], ["libggml-vulkan.so"])
    assert description["requires"] == addon["requires"]
    assert {path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file()} == {
        "companion.json",
        "lib/libggml-vulkan.so",
        "licenses/LICENSE",
        "licenses/llama.cpp.txt",
        "sbom.spdx.json",
    }
