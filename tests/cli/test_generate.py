"""`llamacore generate` as a user runs it: in a process of its own."""

import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

PROMPT = "Tell me a happy story."


def start(*args, **kwargs):
    """Start the command; output is captured as bytes."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # one thread: the model is tiny, and threads that wait for one another on a busy machine only cost time
    command = [sys.executable, "-m", "llamacore.cli.app", "generate", "-t", "1", *args]
    return subprocess.Popen(command, **{**pipes, **kwargs})


def run(*args, stdin=b""):
    """Run the command to its end and return (exit code, stdout, stderr)."""
    process = start(*args, stdin=subprocess.PIPE)
    out, err = process.communicate(stdin, timeout=120)
    return process.returncode, out.decode(), err.decode()


def test_streams_text_from_the_bundled_model():
    """Without --model the demo model answers, which is said in one line on stderr; stdout is text alone."""
    code, out, err = run(PROMPT, "--temp", "0", "-n", "16")
    assert 0 == code
    assert len(out.strip()) > 10
    assert 1 == len(err.splitlines())
    assert "bundled demo model" in err


def test_the_same_greedy_run_gives_the_same_bytes():
    """Two greedy runs are the same to the byte, prompt from the argument, a file or standard input alike."""
    by_argument = run(PROMPT, "--temp", "0", "-n", "20", "-q")
    assert by_argument == run("--temp", "0", "-n", "20", "-q", stdin=PROMPT.encode())
    assert by_argument == run("-", "--temp", "0", "-n", "20", "-q", stdin=PROMPT.encode())


def test_prompt_from_a_file(tmp_path):
    """-f reads the prompt from a file."""
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT)
    assert run(PROMPT, "--temp", "0", "-n", "8", "-q") == run("-f", str(file), "--temp", "0", "-n", "8", "-q")


def test_quiet_writes_nothing_on_stderr():
    """--quiet leaves stderr empty."""
    assert "" == run(PROMPT, "-n", "4", "--quiet")[2]


def test_json_is_one_object_with_everything():
    """--json prints one object with text, tokens, finish reason, usage, timings and model, and nothing else."""
    code, out, _ = run("Once upon a time", "--raw", "-n", "6", "--json", "--seed", "7")
    found = json.loads(out)
    assert 0 == code
    assert {"text", "tokens", "finish_reason", "stop", "usage", "timings", "model"} == set(found)
    assert ("length", 6, 6) == (found["finish_reason"], len(found["tokens"]), found["usage"]["completion_tokens"])
    assert "llamacore-demo-q8_0" == found["model"]


def test_stop_is_repeatable_and_exact():
    """Generation ends before the first of several stop strings."""
    text = json.loads(run("Once upon", "--raw", "--temp", "0", "-n", "30", "--json")[1])["text"]
    stop = text.split()[4]
    found = json.loads(
        run("Once upon", "--raw", "--temp", "0", "-n", "30", "--json", "--stop", "never seen", "--stop", stop)[1]
    )
    assert (text[: text.index(stop)], "stop", stop) == (found["text"], found["finish_reason"], found["stop"])


def test_system_and_raw():
    """--system changes the prompt; --raw leaves the template out; both together are an error."""
    tokens = {
        name: json.loads(run("hello", *args, "-n", "1", "--json")[1])["usage"]["prompt_tokens"]
        for name, args in {"chat": [], "system": ["--system", "Be brief."], "raw": ["--raw"]}.items()
    }
    assert tokens["raw"] < tokens["chat"] < tokens["system"]
    code, _, err = run("hello", "--raw", "--system", "x")
    assert 1 == code
    assert "--system" in err


def test_json_schema_and_grammar():
    """Output follows a JSON schema or a GBNF grammar."""
    schema = '{"type": "object", "properties": {"mood": {"enum": ["happy", "sad"]}}, "required": ["mood"]}'
    _, out, _ = run("Which mood?", "--json-schema", schema, "-q", "--seed", "1", "-n", "40")
    assert json.loads(out)["mood"] in ("happy", "sad")
    assert run("Say it", "--grammar", 'root ::= "yes" | "no"', "-q", "--seed", "1", "-n", "10")[1].strip() in (
        "yes",
        "no",
    )


ALL_SAMPLING = [
    "--seed", "5", "--temp", "0.9", "--top-k", "30", "--top-p", "0.9", "--min-p", "0.02", "--top-nsigma", "2",
    "--xtc-probability", "0.1", "--xtc-threshold", "0.2", "--typical", "0.9", "--repeat-last-n", "32",
    "--repeat-penalty", "1.05", "--presence-penalty", "0.1", "--frequency-penalty", "0.1", "--dry-multiplier", "0.5",
    "--dry-base", "1.7", "--dry-allowed-length", "3", "--dry-penalty-last-n", "32", "--dry-sequence-breaker", ".",
    "--adaptive-decay", "0.8", "--dynatemp-range", "0.1", "--dynatemp-exp", "1.1", "--min-keep", "1",
    "--logit-bias", "20-5", "--ignore-eos", "--samplers", "penalties;dry;top_k;top_p;min_p;temperature",
]  # fmt: skip


def test_every_sampling_option_is_taken():
    """All sampling options under upstream's names work together."""
    code, out, err = run(PROMPT, *ALL_SAMPLING, "-n", "8", "-q")
    assert (0, "") == (code, err)
    assert out.strip()


@pytest.mark.parametrize(
    "extra",
    [
        ["--mirostat", "1"],
        ["--mirostat", "2", "--mirostat-lr", "0.2", "--mirostat-ent", "4"],
        ["--adaptive-target", "0.5"],
    ],
)
def test_samplers_that_replace_the_chain(extra):
    """Mirostat and adaptive-p work too."""
    assert 0 == run(PROMPT, *extra, "-n", "5", "-q")[0]


ERRORS = {
    "no such model": (["hi", "-m", "no-such.gguf"], "no-such.gguf"),
    "not a model": (["hi", "-m", __file__], "GGUF"),
    "no prompt file": (["-f", "no-such.txt"], "no-such.txt"),
    "two prompts": (["hi", "-f", __file__], "exclude"),
    "bad grammar": (["hi", "--grammar", "root ::= ("], "grammar"),
    "bad schema": (["hi", "--json-schema", "{"], "schema"),
    "two constraints": (["hi", "--grammar", "root ::= [a-z]", "--json-schema", "{}"], "exclude"),
    "bad bias": (["hi", "--logit-bias", "x"], "TOKEN_ID"),
    "bias out of range": (["hi", "--logit-bias", "99999999+1"], "99999999"),
    "bad top-p": (["hi", "--top-p", "7"], "top_p"),
    "bad sampler": (["hi", "--samplers", "nonsense"], "nonsense"),
    "bad letter": (["hi", "--sampler-seq", "kq"], "'q'"),
    "two orders": (["hi", "--sampler-seq", "k", "--samplers", "top_k"], "exclude"),
    "bad layers": (["hi", "-ngl", "many"], "--gpu-layers"),
    "prompt too long": (["word " * 3000, "-c", "256"], "n_ctx"),
    "empty prompt": (["", "--raw"], "prompt"),
    "negative tokens": (["hi", "-n", "-5"], "max_tokens"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_line_without_a_traceback(name):
    """What is wrong is said in one line of stderr; nothing is on stdout; the exit code is 1."""
    args, expected = ERRORS[name]
    code, out, err = run(*args, "-q")
    assert (1, "") == (code, out)
    assert 1 == len(err.strip().splitlines()), err
    assert expected in err
    assert "Traceback" not in err


def test_input_that_is_not_utf8_is_an_error():
    """Bytes that are no text are refused, not guessed at."""
    code, _, err = run("-q", stdin=b"\xff\xfe\x00")
    assert 1 == code
    assert "UTF-8" in err


def test_unknown_options_exit_with_usage():
    """A misspelt option is refused by name with exit code 2."""
    code, _, err = run("hi", "--temprature", "1")
    assert 2 == code
    assert "--temprature" in err


def read_some(process):
    """Wait until the process has written something."""
    return os.read(process.stdout.fileno(), 1)


def test_interrupt_keeps_the_text_and_exits_with_130():
    """Ctrl-C ends the stream cleanly: what was written stays, no traceback, exit code 130."""
    process = start(PROMPT, "--ignore-eos", "--temp", "0", "-q")
    first = read_some(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (130, b"") == (process.returncode, err)
    assert (first + out).strip()


def test_interrupted_json_is_still_an_object():
    """With --json an interrupted run prints what it has, marked as cancelled."""
    process = start(PROMPT, "--ignore-eos", "--json", "-c", "2048")
    time.sleep(1)
    while process.poll() is None and not os.path.exists(f"/proc/{process.pid}/task"):
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    if process.returncode == 130 and out:
        assert "cancelled" == json.loads(out)["finish_reason"]
    else:  # it was interrupted before it started, or had filled its context
        assert process.returncode in (0, 130)


def test_closed_output_is_not_an_error():
    """`llamacore generate | head` ends quietly when the reader goes away."""
    with start(PROMPT, "--ignore-eos", "-q") as process:
        read_some(process)
        process.stdout.close()
        assert 141 == process.wait(timeout=60)
        assert b"" == process.stderr.read()


def test_a_terminal_gets_a_footer():
    """On a terminal the rates are shown on stderr after the text."""
    master, slave = pty.openpty()
    process = start(PROMPT, "-n", "5", stderr=slave)
    os.close(slave)
    out, _ = process.communicate(timeout=60)
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:
        pass  # the other end is closed
    os.close(master)
    assert 0 == process.returncode
    assert b"per second" in shown
    assert b"per second" not in out
