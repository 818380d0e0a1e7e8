"""`llamacore run` as a user runs it: in a process of its own."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "pipeline.json"
USER_NODES = """
import asyncio
from llamacore.nodes import Json, Node, Text, register_node

@register_node("CliUpper")
class Upper(Node):
    async def process(self, data):
        if isinstance(data, Json):
            return Json({"got": data.value})
        if data.text == "boom":
            raise ValueError("it went boom")
        return [Text(data.text.upper()), Text("seen", "ui")]

@register_node("CliSleepy")
class Sleepy(Node):
    async def process(self, data):
        yield Text("begun")
        await asyncio.sleep(60)
"""
UPPER = {"version": "v1", "plugins": ["./mine.py"], "nodes": [{"id": "up", "node_type": "CliUpper"}]}


def start(*args, **kwargs):
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-W", "error", "-m", "llamacore.cli.app", "run", *map(str, args)]
    return subprocess.Popen(command, **{**pipes, **kwargs})


def run(*args, stdin=b""):
    """Run the command to its end and return (exit code, stdout, stderr)."""
    process = start(*args, stdin=subprocess.PIPE)
    out, err = process.communicate(stdin, timeout=120)
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def manifest(tmp_path):
    """A function that writes a manifest beside the user's nodes."""
    (tmp_path / "mine.py").write_text(USER_NODES)

    def write(value):
        path = tmp_path / "pipeline.json"
        path.write_text(json.dumps(value))
        return path

    return write


def test_the_example_runs():
    """The example is a manifest as plugin hosts have it, with the model path changed and nothing else."""
    code, out, err = run(EXAMPLE, "-i", "Tell me a happy story.")
    assert (code, err) == (0, "")
    assert len(out.split()) > 20
    assert "<|" not in out
    assert out.count("\n") >= 1


def test_json_lines_are_envelopes():
    """With --json every line is an envelope; news come first, the sentinel once for each turn."""
    code, out, err = run(EXAMPLE, "--json", stdin=b"Tell me a sad story.\n\nAnd another one.")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    news = [line["value"]["status"] for line in lines if line["node"] == "__system__"]
    assert news == ["initializing", "loading_node", "loading_model", "ready", "node_ready", "ready"]
    texts = [line["text"] for line in lines if line["node"] == "llm"]
    assert texts.count("<|text_end|>") == 2
    assert texts[-1] == "<|text_end|>"
    assert all(line["data_type"] == "text" and line["channel"] == "tts" for line in lines if line["node"] == "llm")


def test_tensors_are_kept_as_files(manifest, tmp_path):
    """--save-tensors writes .npy files, numbered on from what is there, and nothing is left aside."""
    params = {"model_path": "demo", "layers": [2, 5], "backend": {"threads": 1}}
    path = manifest(
        {"version": "v1", "nodes": [{"id": "a/b", "node_type": "LlamaCppActivationNode", "params": params}]}
    )
    folder = tmp_path / "tensors"
    code, out, _ = run(path, "-i", "one", "--save-tensors", folder, "--json", "-q")
    assert code == 0
    found = [line for line in map(json.loads, out.splitlines()) if line["data_type"] == "tensor"]
    assert [line["metadata"]["layer"] for line in found] == [2, 5]
    assert all("data" not in line for line in found)
    assert sorted(os.listdir(folder)) == ["000001-a_b.npy", "000002-a_b.npy"]
    assert [line["path"] for line in found] == [str(folder / name) for name in sorted(os.listdir(folder))]
    array = np.load(folder / "000001-a_b.npy")
    assert (array.dtype, list(array.shape)) == (np.float32, found[0]["shape"])
    assert np.linalg.norm(array) == pytest.approx(1, rel=1e-4)
    code, out, _ = run(path, "-i", "two", "--save-tensors", folder)
    assert code == 0
    assert len(out.splitlines()) == 2
    assert '"path"' in out and '"data"' not in out
    assert len(os.listdir(folder)) == 4


def test_inputs_as_json(manifest):
    """--json-input takes texts, values and envelopes, and sends them where they say."""
    lines = ['"hello"', '{"a": 1}', '{"data_type": "text", "text": "there", "to": "up"}', "[1, 2]"]
    code, out, _ = run(manifest(UPPER), "--json-input", "--json", stdin="\n".join(lines).encode())
    found = [line for line in map(json.loads, out.splitlines()) if line["node"] == "up" and line.get("channel") != "ui"]
    assert code == 0
    assert [line.get("text", line.get("value")) for line in found] == [
        "HELLO", {"got": {"a": 1}}, "THERE", {"got": [1, 2]},
    ]  # fmt: skip


def test_texts_and_channels_are_lines(manifest):
    code, out, err = run(manifest(UPPER), "-i", "one", "-i", "two", "--session", "mine")
    assert (code, out, err) == (0, "ONE\nui: seen\nTWO\nui: seen\n", "")
    two = {**UPPER, "nodes": [{"id": name, "node_type": "CliUpper"} for name in ("a", "b")]}
    code, out, _ = run(manifest(two), "-i", "x")
    assert sorted(out.splitlines()) == ["a/ui: seen", "a: X", "b/ui: seen", "b: X"]


def test_what_is_not_used_is_said_on_stderr(manifest):
    path = manifest({**UPPER, "nodes": [{**UPPER["nodes"][0], "host": "elsewhere", "fast_path": True}]})
    code, _, err = run(path, "-i", "x")
    assert code == 0
    assert err.splitlines() == [f"{path}: nodes[0].{name} is not used here" for name in ("host", "fast_path")]
    assert run(path, "-i", "x", "-q")[2] == ""


@pytest.mark.parametrize(
    ("change", "args", "stdin", "said"),
    [
        ({"version": "v2"}, (), b"", "version is 'v2'"),
        ({"nodes": [{"id": "x", "node_type": "CliUper"}]}, (), b"", "nodes[0].node_type: there is no node type"),
        ({}, ("-i", "x", "-i", "boom", "-i", "y"), b"", "node 'up' failed: ValueError: it went boom"),
        ({}, ("--json-input",), b'"x"\n{\n', "line 2 of the input is no JSON"),
        ({}, ("--json-input",), b'{"data_type": "sound"}', "line 1 of the input"),
        ({}, ("--json-input",), b'{"data_type": "text", "text": "x", "to": "nobody"}', "there is no node 'nobody'"),
        ({}, (), b"x\n\xff\n", "line 2 of standard input is not UTF-8"),
        ({}, ("-i", "x", "--save-tensors", "{manifest}"), b"", "pipeline.json"),
        ({}, ("--session", "", "-i", "x"), b"", "the session ''"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(manifest, change, args, stdin, said):
    path = manifest({**UPPER, **change})
    code, _, err = run(path, *(arg.format(manifest=path) for arg in args), stdin=stdin)
    assert code == 1
    assert len(err.splitlines()) == 1, err
    assert err.startswith("llamacore: ")
    assert said in err


def test_a_missing_manifest(tmp_path):
    code, _, err = run(tmp_path / "none.json")
    assert code == 1
    assert "none.json" in err
    assert len(err.splitlines()) == 1


def test_ctrl_c_ends_it(manifest):
    """While a node works and while it waits for a line: exit code 130, no traceback, what was written stays."""
    path = manifest({**UPPER, "nodes": [{"id": "s", "node_type": "CliSleepy"}]})
    for stdin, wanted in (("hello\n", b"begun"), ("", b"")):
        process = start(path, stdin=subprocess.PIPE)
        process.stdin.write(stdin.encode())
        process.stdin.flush()
        out = process.stdout.readline() if wanted else time.sleep(2) or b""
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
        process.stdin.close()
        assert process.returncode == 130
        assert wanted in out + process.stdout.read()
        assert process.stderr.read() == b""
        process.stdout.close()
        process.stderr.close()


def test_a_reader_that_has_gone(manifest):
    """A closed pipe ends it quietly."""
    process = start(manifest(UPPER), "--json", stdin=subprocess.PIPE)
    process.stdout.close()
    process.stdin.write(b"hello\n" * 100)
    process.stdin.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_results_come_before_the_input_ends(manifest):
    """A line is answered when it comes, not when the input is over."""
    process = start(manifest(UPPER), stdin=subprocess.PIPE)
    for text in (b"one", b"two"):
        process.stdin.write(text + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == text.upper() + b"\n"
        assert process.stdout.readline() == b"ui: seen\n"
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_a_terminal_sees_what_is_loaded():
    leader, follower = pty.openpty()
    process = start(EXAMPLE, "-i", "Tell me a story.", stderr=follower)
    process.communicate(timeout=120)
    os.close(follower)
    seen = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert process.returncode == 0
    assert "llm: loading_model loading demo" in seen
    assert re.search(r"\r\x1b\[K$", seen)
