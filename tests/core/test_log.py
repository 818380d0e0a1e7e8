"""Native log lines in Python's logging."""

from __future__ import annotations

import logging
import threading

import pytest

import llamacore as lc
from llamacore.core import log


@pytest.fixture
def lines():
    """What the logger is given while a test runs."""
    found: list[tuple[int, str]] = []

    class Collect(logging.Handler):
        def emit(self, record):
            found.append((record.levelno, record.getMessage()))

    handler, level = Collect(), log.logger.level
    log.drain()
    log.logger.addHandler(handler)
    log.logger.setLevel(logging.DEBUG)
    yield found
    log.logger.removeHandler(handler)
    log.logger.setLevel(level)
    log.set_level(logging.INFO)


def test_loading_is_logged(lines, tiny_path):
    """The lines of a load come with their levels when it has ended, each once."""
    lc.Model.load(tiny_path()).close()
    assert any("llama" in text and level == logging.INFO for level, text in lines)
    assert not any(text.endswith("\n") for _, text in lines)
    count = len(lines)
    log.drain()
    assert len(lines) == count


def test_levels(lines, tiny_path):
    """Lines below the level are dropped in C, errors keep their reasons until that is switched off as well."""
    log.set_level(logging.WARNING)
    lc.Model.load(tiny_path()).close()
    assert not [text for level, text in lines if level < logging.WARNING]
    log.set_level(logging.CRITICAL)
    mark = log.mark()
    lc.Model.load(tiny_path()).close()
    assert log.mark() == mark
    log.set_level(logging.DEBUG)
    lc.Model.load(tiny_path()).close()
    assert [text for level, text in lines if level == logging.DEBUG]


def test_silent_by_default(run_child, tiny_path):
    """Without a handler nothing is printed, not even by a failing load."""
    printed = run_child(
        """
        model = lc.Model.load(sys.argv[1])
        ctx = model.context(n_ctx=256)
        try:
            lc.Model.load(sys.argv[1], kv_overrides={"general.architecture": "nonsense"})
        except lc.ModelLoadError as error:
            assert error.native_log
        """,
        tiny_path(),
    )
    assert printed == ""


def test_an_error_has_the_lines_of_its_thread(tiny_path):
    """Another thread that fails at the same time does not mix its lines in."""
    errors: dict[str, lc.LlamaCoreError] = {}

    def fail(name):
        try:
            lc.Model.load(tiny_path(), kv_overrides={"general.architecture": name})
        except lc.ModelLoadError as error:
            errors[name] = error

    names = [f"wrong{i}" for i in range(4)]
    threads = [threading.Thread(target=fail, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        found = " ".join(errors[name].native_log)
        assert name in found
        assert not any(other in found for other in names if other != name)


def test_more_lines_than_the_ring_holds(lines, tiny_path):
    """Lines that were overwritten are lost, the newest are there, and draining goes on."""
    from llamacore.core._native import lib

    log.drain()
    for number in range(5000):
        lib.llc_test_throw(2, b"line %d" % number)
    drained = log.drain()
    assert 0 < drained < 5000
    assert "line 4999" in lines[-1][1]
    assert log.drain() == 0


def test_draining_from_several_threads(lines, tiny_path):
    """Every line is handed on exactly once."""
    from llamacore.core._native import lib

    log.drain()
    lines.clear()

    def work(name):
        for number in range(100):
            lib.llc_test_throw(2, b"%d of %d" % (number, name))
            log.drain()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.drain()
    texts = [text for _, text in lines]
    assert len(texts) == len(set(texts)) == 400
