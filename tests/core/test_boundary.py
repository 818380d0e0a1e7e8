"""The C boundary: whatever is thrown in native code arrives as an error of ours, with its text."""

from __future__ import annotations

import pytest

import llamacore as lc
from llamacore.core import backend
from llamacore.core._native import lib, path_bytes, text
from llamacore.core._status import raise_status


@pytest.fixture(autouse=True)
def _initialised():
    backend.init()


@pytest.mark.parametrize(
    ("kind", "status", "error", "reason"),
    [
        (0, "LLC_EXCEPTION", lc.NativeError, "what it says"),
        (1, "LLC_OUT_OF_MEMORY", lc.OutOfMemoryError, "out of memory"),
        (2, "LLC_ABORTED", lc.NativeError, "what it says"),
        (3, "LLC_EXCEPTION", lc.NativeError, "not a std::exception"),
    ],
)
def test_what_is_thrown_arrives(kind, status, error, reason):
    """A C++ exception, bad_alloc, GGML_ABORT and an int each become a status, a text and an exception."""
    found = lib.llc_test_throw(kind, b"what it says")
    assert found == getattr(lib, status)
    assert reason in text(lib.llc_last_error())
    with pytest.raises(error, match=reason) as caught:
        raise_status(found, "the test", lc.NativeError)
    assert isinstance(caught.value, lc.LlamaCoreError)


def test_the_next_call_starts_anew():
    """After an abort the same thread can call on, and the old text is gone."""
    for _ in range(100):
        assert lib.llc_test_throw(2, b"first") == lib.LLC_ABORTED
        assert lib.llc_test_throw(0, b"second") == lib.LLC_EXCEPTION
        assert text(lib.llc_last_error()) == "second"


def test_the_text_belongs_to_the_thread():
    """Two threads that fail at the same time read their own reasons."""
    import threading

    wrong = []

    def work(name):
        for _ in range(500):
            lib.llc_test_throw(0, name)
            if text(lib.llc_last_error()) != name.decode():
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(b"thread %d" % i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_texts_of_any_kind():
    """Messages that are not UTF-8 or very long come through, and a path with NUL never reaches C."""
    assert lib.llc_test_throw(0, b"\xff\xfe") == lib.LLC_EXCEPTION
    assert text(lib.llc_last_error()) == "\ufffd\ufffd"
    lib.llc_test_throw(0, b"x" * 10**6)
    assert len(text(lib.llc_last_error())) == 10**6
    with pytest.raises(lc.InvalidArgumentError):
        path_bytes("a\0b")
