"""The workflow of a public CI runs what is here: commands, options, platforms and files as they are."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import build_lib
from build_support.config import BuildConfig
from build_support.versions import is_tag, project_version
from llamacore_sys._platform import PLATFORM_KEYS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
WORKFLOW: dict[Any, Any] = yaml.safe_load(TEXT)
JOBS: dict[str, Any] = WORKFLOW["jobs"]
TRIGGERS: dict[str, Any] = WORKFLOW[True]  # YAML 1.1 takes `on` for a truth value
MATRIX: list[dict[str, Any]] = JOBS["package"]["strategy"]["matrix"]["include"]


def lines() -> Iterator[str]:
    """Every line that a job runs, one for each row of the matrix where it names the matrix."""
    for job in JOBS.values():
        for step in job["steps"]:
            for line in step.get("run", "").splitlines():
                for row in MATRIX if "${{ matrix." in line else MATRIX[:1]:
                    yield re.sub(r"\$\{\{ matrix\.(\w+) \}\}", lambda found, row=row: str(row[found[1]]), line)


LINES = list(lines())
BUILD = [shlex.split(line)[2:] for line in LINES if line.startswith("python build_lib.py ")]


def parse(arguments: list[str]) -> argparse.Namespace:
    """What build_lib.py makes of arguments; it ends the process on those that it does not know."""
    tag = f"v{project_version(ROOT)}"
    return build_lib._parser().parse_args([tag if word == "$GITHUB_REF_NAME" else word for word in arguments])


@pytest.mark.parametrize("arguments", BUILD, ids=" ".join)
def test_the_build_takes_the_options_that_are_given(arguments: list[str]):
    parsed = parse(arguments)
    assert parsed.command == arguments[0]
    if parsed.command == "release":
        assert is_tag(parsed.tag) and parsed.upload
    else:
        config = BuildConfig(profile=parsed.profile, backends=tuple(parsed.backend), cuda_arch=parsed.cuda_arch)
        assert config.profile == "portable" and config.addons


def test_each_platform_is_packaged_and_released_once():
    platforms = [row["platform"] for row in MATRIX]
    assert set(platforms) <= set(PLATFORM_KEYS)
    packaged = [arguments for arguments in BUILD if arguments[0] == "package"]
    released = [
        build_lib._parser().parse_args([a if a[0] != "$" else "v1.0.0" for a in x]) for x in BUILD if x[0] == "release"
    ]
    assert len(packaged) == len(platforms) == len(set(platforms))
    assert [one.platform for one in released] == platforms
    assert [[path.name for path in one.from_dir] for one in released] == [[platform] for platform in platforms]
    assert all(path.as_posix().startswith("build/packed/") for one in released for path in one.from_dir)


def test_every_other_command_is_a_known_one():
    known = {"apt-get", "cd", "cp", "curl", "dpkg", "echo", "for", "git", "mkdir", "rm"}
    for line in LINES:
        words = shlex.split(line)
        if words[0].endswith("python") and words[1] == "-m":
            assert words[2] in {"abi3audit", "auditwheel", "build", "pip", "venv"}
        elif words[0] == "python":
            assert words[1] == "build_lib.py"
        elif words[0].endswith("/llamacore"):
            assert (ROOT / "llamacore" / "cli" / f"{words[1]}.py").exists(), line
        else:
            assert words[0] in known, line


def test_it_publishes_on_a_tag_only_and_without_secrets():
    assert TRIGGERS == {"push": {"tags": ["v*"]}, "workflow_dispatch": None}
    assert "secrets." not in TEXT
    assert "password" not in TEXT.split("jobs:")[1]
    assert WORKFLOW["permissions"] == {"contents": "read"}
    writing = [name for name, job in JOBS.items() if "write" in str(job.get("permissions", ""))]
    publishing = [name for name, job in JOBS.items() if any("publish" in s.get("uses", "") for s in job["steps"])]
    uploading = [name for name, job in JOBS.items() if any("--upload" in s.get("run", "") for s in job["steps"])]
    assert writing == publishing == uploading == ["publish"]
    assert JOBS["publish"]["if"] == "startsWith(github.ref, 'refs/tags/v')"
    assert set(JOBS["publish"]["needs"]) == set(JOBS) - {"publish"}


def test_what_is_uploaded_is_what_is_downloaded():
    uploads = [s["with"]["name"] for j in JOBS.values() for s in j["steps"] if "upload-artifact" in s.get("uses", "")]
    assert uploads == ["${{ matrix.platform }}", "sdist"]
    [copy] = [line for line in LINES if line.startswith("cp build/")]
    assert shlex.split(copy) == ["cp", "build/packed/*/*.whl", "build/packed/sdist/*.tar.gz", "build/index"]
