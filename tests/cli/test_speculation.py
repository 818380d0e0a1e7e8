"""`llamacore generate --spec` and `llamacore bench spec`, in processes of their own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from llamacore.hub import demo_draft_path, demo_model_path

STORY = "Tell me a happy story."
SHORT = ("-t", "1", "-n", "24", "-r", "2", "--prompt", STORY, "--prompt", "Hello!")


def start(*args: str, **kwargs):
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "llamacore.cli.app", *map(str, args)], **{**pipes, **kwargs})


def run(*args: str) -> tuple[int, str, str]:
    process = start(*args)
    out, err = process.communicate(timeout=120)
    return process.returncode, out.decode(), err.decode()


def read_all(master: int) -> bytes:
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:
        pass  # the other end is closed
    os.close(master)
    return shown


# generate


@pytest.mark.parametrize(
    ("options", "types"),
    [
        (["--spec", "mtp"], ["draft-mtp"]),
        (["--spec", "mtp", "--draft-max", "2", "--draft-min", "1", "--draft-p-min", "0.3"], ["draft-mtp"]),
        (["--spec", "draft"], ["draft-simple"]),
        (["--spec", "draft", "--draft-model", str(demo_draft_path()), "--draft", "4"], ["draft-simple"]),
        (["--spec", "ngram", "--draft-max", "5"], ["ngram-mod"]),
        (["--spec", "auto"], ["draft-mtp"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_ways(options, types):
    code, out, err = run("generate", "-t", "1", STORY, "--temp", "0", "-n", "30", "--json", "-q", *options)
    assert (0, "") == (code, err)
    found = json.loads(out)
    assert types == found["speculation"]["types"]
    limit = int(options[options.index("--draft-max") + 1]) if "--draft-max" in options else None
    assert limit is None or limit == len(found["speculation"]["positions"])
    assert 30 == len(found["tokens"])
    assert found["speculation"]["failure"] is None


def test_without_it_nothing_is_said():
    assert "speculation" not in json.loads(run("generate", "-t", "1", STORY, "-n", "2", "--json", "-q")[1])


def test_a_terminal_is_told_what_was_accepted():
    master, slave = pty.openpty()
    process = start("generate", "-t", "1", STORY, "-n", "30", "--temp", "0", "--spec", "mtp", stderr=slave)
    os.close(slave)
    out, _ = process.communicate(timeout=60)
    shown = read_all(master)
    assert 0 == process.returncode
    assert b"draft-mtp: drafted" in shown
    assert b"accepted" in shown
    assert b"drafted" not in out


ERRORS = {
    "no way": (["--draft-max", "3"], "--draft-max without --spec"),
    "no way for two": (
        ["--draft-p-min", "0.5", "--draft-model", "x"],
        "--draft-p-min and --draft-model without --spec",
    ),
    "unknown way": (["--spec", "magic"], "--spec magic"),
    "not of n-grams": (["--spec", "ngram", "--draft-model", "x"], "--draft-model with --spec ngram"),
    "not of auto": (["--spec", "auto", "--draft-min", "1"], "--draft-min with --spec auto"),
    "no draft model": (["--spec", "draft", "-m", str(demo_model_path())], "--draft-model"),
    "no such file": (["--spec", "draft", "--draft-model", "no-such.gguf"], "no-such.gguf"),
    "no MTP layers": (["--spec", "mtp", "-m", str(demo_draft_path())], "no layers for MTP"),
    "itself": (["--spec", "draft", "--draft-model", str(demo_model_path())], "cannot draft"),
    "too many": (["--spec", "mtp", "--draft-max", "0"], "n_max=0"),
    "more than most": (["--spec", "mtp", "--draft-max", "2", "--draft-min", "3"], "n_min=3"),
    "no probability": (["--spec", "mtp", "--draft-p-min", "2"], "p_min=2"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_line(name):
    options, expected = ERRORS[name]
    code, out, err = run("generate", "-t", "1", "-q", "hi", "-n", "3", *options)
    assert (1, "") == (code, out)
    assert 1 == len(err.strip().splitlines()), err
    assert expected in err


# bench spec


def test_a_table():
    code, out, err = run("bench", "spec", *SHORT)
    assert 0 == code
    assert 1 == len(err.splitlines())
    assert "bundled demo model" in err
    head, columns, *rows = out.splitlines()
    assert head.startswith("llamacore-demo-q8_0: 2 texts of at most 24 tokens, greedy")
    assert columns.split()[:4] == ["method", "draft", "tokens/s", "gain"]
    assert ["plain", "mtp", "draft", "ngram-simple", "ngram-mod"] == [row.split()[0] for row in rows]
    assert rows[0].split()[2] == "1.00"
    assert rows[1].count("%") == 3


def test_json_has_the_same_figures():
    code, out, err = run("bench", "spec", *SHORT, "--json", "-q", "--draft-max", "2", "--streams", "2")
    assert (0, "") == (code, err)
    report = json.loads(out)
    assert (2, 2, 2, 24) == (report["streams"], report["rounds"], report["texts"], report["max_tokens"])
    rows = {row["method"]: row for row in report["methods"]}
    assert {"plain", "mtp", "draft model", "ngram-simple", "ngram-mod"} == set(rows)
    assert (0, 0, [], 1.0) == tuple(rows["plain"][name] for name in ("n_max", "drafted", "acceptance", "gain"))
    for name, row in rows.items():
        assert row["tokens_per_second"] > 0
        assert row["failure"] is None
        assert name == "plain" or len(row["acceptance"]) == row["n_max"] == 2
        assert row["accepted"] <= row["drafted"]
    assert rows["mtp"]["drafted"] > 10
    assert rows["mtp"]["tokens_per_step"] > 1.2
    assert rows["mtp"]["acceptance"][0] > 0.5


def test_what_a_model_does_not_allow(tiny_path):
    """No row for MTP without its layers; n-grams need a memory that takes tokens back."""
    short = ("-t", "1", "-n", "8", "-r", "1", "--raw", "--prompt", "a b c d", "--json", "-q")
    report = json.loads(run("bench", "spec", tiny_path("llama"), *short)[1])
    assert ["plain", "ngram-simple", "ngram-mod"] == [row["method"] for row in report["methods"]]
    report = json.loads(run("bench", "spec", tiny_path("mamba"), *short)[1])
    assert ["plain"] == [row["method"] for row in report["methods"]]
    assert {"ngram-simple", "ngram-mod"} == set(report["impossible"])


BENCH_ERRORS = {
    "no such model": (["no-such.gguf"], "no-such.gguf"),
    "no such draft model": (["--draft-model", "no-such.gguf"], "no-such.gguf"),
    "a draft model of another kind": (["--draft-model", str(demo_model_path())], "cannot draft"),
    "no rounds": (["--rounds", "0"], "--rounds 0"),
    "no streams": (["--streams", "-1"], "--streams -1"),
    "no tokens": (["-n", "0"], "--max-tokens 0"),
    "bad limit": (["--draft-max", "0"], "n_max=0"),
    "bad layers": (["-ngl", "many"], "--gpu-layers"),
    "an empty prompt": (["--prompt", "", "--raw"], "prompt"),
}


@pytest.mark.parametrize("name", BENCH_ERRORS)
def test_errors_of_the_bench_are_one_line(name):
    options, expected = BENCH_ERRORS[name]
    code, out, err = run("bench", "spec", "-t", "1", "-q", *options)
    assert (1, "") == (code, out)
    assert 1 == len(err.strip().splitlines()), err
    assert expected in err


def test_progress_and_interrupt():
    """A terminal sees the round and the method; Ctrl-C ends it at once, without a traceback."""
    master, slave = pty.openpty()
    process = start("bench", "spec", "-t", "1", "-r", "100000", stderr=slave)
    os.close(slave)
    shown = b""
    while b"round 1 of 100000: mtp" not in shown:
        shown += os.read(master, 4096)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (130, b"") == (process.returncode, out)
    assert b"Traceback" not in shown + read_all(master)
