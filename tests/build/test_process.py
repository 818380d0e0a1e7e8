"""Commands with a log and progress."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from build_support.errors import BuildError
from build_support.process import Console, explain, run_logged

ROOT = Path(__file__).resolve().parents[2]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_all_output_is_in_the_log(tmp_path: Path, console: Console):
    log = tmp_path / "logs" / "build.log"
    run_logged(python("import sys; print('out'); print('err', file=sys.stderr)"), log, console, what="testing")
    assert {"out", "err"} <= set(log.read_text().splitlines())
    run_logged(python("print('more')"), log, console, what="testing")
    assert {"out", "more"} <= set(log.read_text().splitlines())


def test_variables_are_added_to_the_environment(tmp_path: Path, console: Console):
    run_logged(
        python("import os; print(os.environ['EXTRA'], 'PATH' in os.environ)"),
        tmp_path / "log",
        console,
        what="testing",
        env={"EXTRA": "value"},
    )
    assert "value True" in (tmp_path / "log").read_text()


def test_steps_rewrite_one_line_of_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    code = "print('[3/310] Building CXX object a/b.dir/models/llama.cpp.o'); print('a warning')"
    run_logged(python(code), tmp_path / "log", Console(terminal), what="testing")
    assert "\r\x1b[K[  3/310] building llama.cpp" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert "\n" not in terminal.getvalue()


def test_steps_are_silent_in_a_pipe(tmp_path: Path):
    pipe = io.StringIO()
    run_logged(python("print('[3/310] Building CXX object x.cpp.o')"), tmp_path / "log", Console(pipe), what="testing")
    assert pipe.getvalue() == ""


def test_verbose_shows_everything(tmp_path: Path):
    pipe = io.StringIO()
    run_logged(
        python("print('[3/310] x'); print('a warning')"), tmp_path / "log", Console(pipe, verbose=True), what="testing"
    )
    assert pipe.getvalue() == "[3/310] x\na warning\n"


def test_a_failure_names_its_first_error_and_the_log(tmp_path: Path, console: Console):
    code = "print('fine'); print('x.cpp:1: error: no such thing'); print('more'); raise SystemExit(3)"
    with pytest.raises(BuildError) as caught:
        run_logged(python(code), tmp_path / "log", console, what="compiling")
    assert "compiling failed (exit status 3)" in caught.value.cause
    assert "x.cpp:1: error: no such thing" in caught.value.cause
    assert str(tmp_path / "log") in caught.value.next_step


def test_a_command_that_does_not_start_is_named(tmp_path: Path, console: Console):
    with pytest.raises(BuildError, match="no-such-program does not start"):
        run_logged(["/no-such-program"], tmp_path / "log", console, what="compiling")


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("as: out.o: No space left on device", "the disk is full"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "ran out of memory"),
        ('The C compiler "x" is not able to compile a simple test program.', "the compiler does not work"),
    ],
)
def test_known_causes_are_named_with_a_cure(tmp_path: Path, output: str, cause: str):
    error = explain("compiling", 1, ["[1/2] x", output], tmp_path / "log")
    assert cause in error.cause
    assert str(tmp_path / "log") in error.next_step


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_an_interrupt_ends_the_command_too(tmp_path: Path):
    code = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from build_support.process import Console, run_logged\n"
        "command = [sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(600)']\n"
        f"run_logged(command, Path({str(tmp_path / 'log')!r}), Console(verbose=True), what='sleeping')\n"
    )
    parent = subprocess.Popen(python(code), stderr=subprocess.PIPE, text=True)
    assert parent.stderr is not None
    with parent.stderr:
        child = int(parent.stderr.readline())
        parent.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in parent.stderr.read()
    parent.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    pytest.fail(f"process {child} outlived the interrupt")
