"""What the pages say of the package is so."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

import llamacore as lc
from llamacore import errors

from .conftest import PAGES, ROOT, blocks, generate_options, page_id, run_cli

GUIDE = ROOT / "docs" / "generate.md"
_OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
_FORBIDDEN = re.compile(
    r"/(work|root|home|tmp|opt)/|C:\\|files\.pythonhosted|pypi\.org|index-url|\b(localhost|127\.0\.0\.1)\b",
    re.IGNORECASE,
)


def test_every_option_of_generate_is_documented():
    assert len(generate_options()) > 60
    documented = set(_OPTION.findall(GUIDE.read_text(encoding="utf-8")))
    assert generate_options() - {"--help", "-h"} <= documented


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_every_option_of_generate_that_is_shown_exists(path: Path):
    shown = [line for _, code in blocks(path, "sh") for line in code.splitlines() if "llamacore generate" in line]
    lines = [re.sub(r"'[^']*'|\"[^\"]*\"", "''", line.split("llamacore generate", 1)[1]) for line in shown]
    options = {option for line in lines for option in _OPTION.findall(line)}
    if path == GUIDE:
        cells = re.findall(r"^\| (`.*?) \|", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
        options |= {option for cell in cells for option in _OPTION.findall(cell)}
        assert options
    assert options <= generate_options()


def shape(value: Any) -> Any:
    """The keys and types of a JSON value; numbers are alike, null is a kind of string."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0])]
    return "number" if isinstance(value, (int, float)) else "text"


def test_the_json_output_is_as_documented():
    ((_, shown),) = blocks(GUIDE, "json")
    result = run_cli("generate", "--json", "--temp", "0", "--max-tokens", "3", "--raw", "Once upon a time")
    assert result.returncode == 0, result.stderr
    assert shape(json.loads(result.stdout)) == shape(json.loads(shown))
    fields = re.findall(r"^\| `(\w+)` \|", GUIDE.read_text(encoding="utf-8").split("| Field |")[1], re.MULTILINE)
    assert fields[:7] == list(json.loads(shown))


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["generate", "--max-tokens", "1", "Hello"], 0),
        (["generate", "-m", "no-such-file.gguf", "Hello"], 1),
        (["generate", "--no-such-option", "Hello"], 2),
    ],
)
def test_exit_status(arguments: list[str], status: int):
    assert run_cli(*arguments).returncode == status
    assert f"| {status} | " in GUIDE.read_text(encoding="utf-8")


def test_the_error_tree_is_that_of_the_module():
    def drawing(text: str) -> list[str]:
        start = text.index("LlamaCoreError\n")
        return [line.strip() for line in text[start:].split("\n\n")[0].replace("```", "").splitlines() if line.strip()]

    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert errors.__doc__ is not None
    assert drawing(page.split("```\n", 1)[1]) == drawing(errors.__doc__)


def test_every_public_name_is_in_the_api_index():
    page = (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page))
    assert {name for name in lc.__all__ if not hasattr(errors, name)} - {"__version__"} <= named
    for name in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE):
        for item in re.findall(r"`(\w+)`", name):
            assert item in lc.__all__


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "api").glob("*.md")), ids=page_id)
def test_an_api_page_names_what_exists(path: Path):
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"^::: ([\w.]+)((?:\n {4}.*)*)", text, re.MULTILINE)
    assert bool(targets) == (path.name != "index.md")
    for target, options in targets:
        found = resolve_name(target)
        for member in re.findall(r"^ {8}- (\w+)", options, re.MULTILINE):
            assert hasattr(found, member), f"{target}.{member}"


def test_the_environment_variables_are_those_of_the_code():
    sources = [
        path for folder in ("llamacore", "llamacore_sys", "build_support") for path in (ROOT / folder).rglob("*.py")
    ]
    quoted = re.compile(r"[\"'](LLAMACORE_[A-Z_]+)[\"']")
    used = {name for path in sources for name in quoted.findall(path.read_text(encoding="utf-8"))}
    cmake = re.findall(r"LLAMACORE_[A-Z_]+", (ROOT / "llamacore_sys" / "CMakeLists.txt").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "building.md").read_text(encoding="utf-8").split("## Environment variables")[1]
    assert set(re.findall(r"LLAMACORE_[A-Z_]+", page)) == used - set(cmake)


def test_the_commands_of_the_build_are_documented():
    result = subprocess.run(
        [sys.executable, str(ROOT / "build_lib.py"), "build", "--help"], capture_output=True, text=True, check=True
    )
    options = set(re.findall(r"(?<![\w-])--[a-z-]+", result.stdout)) - {"--help", "--verbose"}
    page = (ROOT / "docs" / "building.md").read_text(encoding="utf-8")
    assert options == {option for option in options if f"`{option}`" in page}


def test_the_commands_of_the_readme_are_what_ci_runs():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for _, code in blocks(ROOT / "README.md", "sh") for line in code.splitlines()]
    assert [line for line in commands if "pip install" in line] == [
        'pip install . && llamacore generate "Tell me a happy story."',
        "pip install '.[test]' && pytest",
    ]
    position = 0
    for command in commands:
        position = script.index(f"\n{command}", position) + 1


def test_links_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)", path.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                assert (path.parent / target).exists(), f"{page_id(path)}: {target}"


def test_versions_agree():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{lc.__version__}"\n' in project
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(lc.__version__)} ", changes, re.MULTILINE)


HOUSE = [
    *PAGES,
    *(ROOT / name for name in ("mkdocs.yml", "Makefile", ".ci/run", "LICENSE", "pyproject.toml")),
    *sorted((ROOT / "examples").glob("*.py")),
]


@pytest.mark.parametrize("path", HOUSE, ids=page_id)
def test_nothing_tells_of_a_machine(path: Path):
    found = [line for line in path.read_text(encoding="utf-8").splitlines() if _FORBIDDEN.search(line)]
    assert [line for line in found if line != "#!/usr/bin/env bash" and "/dev/null" not in line] == []
