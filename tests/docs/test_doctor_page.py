"""What the page about `llamacore doctor` shows is what it does."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import ROOT, blocks, run_cli

PAGE = ROOT / "docs" / "doctor.md"


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def rows(text: str, head: str) -> dict[str, str]:
    """The table with that head: first column without its marks, and the rest."""
    table = text.split(f"| {head} |", 1)[1].split("\n\n")[0]
    found = (line.split(" | ", 1) for line in table.splitlines()[2:])
    return {first.strip("| `"): rest for first, rest in found}


def test_the_commands_run_and_look_as_shown(text: str):
    commands = [line for _, code in blocks(PAGE, "sh") for line in code.splitlines()]
    assert commands
    ((_, shown),) = blocks(PAGE, "text")
    line = re.compile(r"(ok|warning|failed) +(\w+(?: \w+|-\w+)?)  +\S")
    for command in commands:
        result = run_cli(*command.split()[1:])
        assert result.returncode == 0, result.stdout
        names = {match[2] for match in map(line.match, result.stdout.splitlines()) if match}
        assert names == {match[2] for match in map(line.match, shown.splitlines()) if match} | (names & {"integrity"})
        assert names <= set(rows(text, "Check"))


def test_the_fields_are_those_of_the_output(text: str):
    result = run_cli("doctor", "--json", "-t", "1")
    report = json.loads(result.stdout)
    fields = rows(text, "Field")
    assert list(fields) == list(report)
    for name in ("machine", "libraries", "native", "selftests", "checks"):
        value = report[name][0] if isinstance(report[name], list) else report[name]
        assert re.findall(r"`(\w+)`", fields[name]) == list(value), name


def test_the_options_are_those_of_the_command(text: str):
    shown = set(re.findall(r"(?<![\w-])--\w+", run_cli("doctor", "--help").stdout)) - {"--help"}
    assert set(re.findall(r"--\w+", " ".join(rows(text, "Option")))) == shown
