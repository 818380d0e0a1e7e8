"""One build at a time."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from build_support.lock import exclusive

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its stdin is closed or it is killed."""
    code = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "from pathlib import Path\n"
        "from build_support.lock import exclusive\n"
        f"with exclusive(Path({str(path)!r}), print):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_build_says_so_and_waits(tmp_path: Path):
    lock = tmp_path / "build" / "lock"
    said: list[str] = []
    entered = threading.Event()

    def second() -> None:
        with exclusive(lock, said.append):
            entered.set()

    with holder(lock) as first:
        thread = threading.Thread(target=second)
        thread.start()
        assert not entered.wait(0.3)
        assert f"process {first.pid}" in said[0]
        assert first.stdin is not None
        first.stdin.close()
        assert entered.wait(10)
        thread.join()
    assert len(said) == 1


def test_a_holder_that_was_killed_holds_nothing(tmp_path: Path):
    lock = tmp_path / "lock"
    said: list[str] = []
    with holder(lock) as first:
        first.kill()
        first.wait()
    with exclusive(lock, said.append):
        pass
    assert said == []


def test_the_lock_can_be_taken_again(tmp_path: Path):
    said: list[str] = []
    for _ in range(2):
        with exclusive(tmp_path / "lock", said.append):
            pass
    assert said == []
