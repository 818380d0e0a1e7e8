"""Every public method called wrongly: always a named error, and everything works afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from decoding import feed
from misuse_table import ALIVE, CALLS, CLASSES, ELSEWHERE, NUMBER_SLOTS, NUMBERS, OTHERS, Things

import llamacore as lc

PYTHONS_OWN = (TypeError,)  # what Python itself says to a value of a wrong type


def public(kind: type) -> list[str]:
    """The public names of a class."""
    return [f"{kind.__name__}.{name}" for name in dir(kind) if not name.startswith("_")]


def properties() -> list[str]:
    """Those that take no arguments."""
    return [name for kind in CLASSES for name in public(kind) if isinstance(vars_of(kind, name), property)]


def vars_of(kind: type, name: str) -> object:
    """What the class has under a public name."""
    return getattr(kind, name.partition(".")[2])


def target(things: Things, name: str) -> object:
    """The object that a name of the table belongs to."""
    return getattr(things, {"Context": "ctx"}.get(name.partition(".")[0], name.partition(".")[0].lower()))


@pytest.fixture(scope="module")
def made(tiny_path, tmp_path_factory):
    """One set of everything for the module."""
    things = Things.make(tiny_path(), tmp_path_factory.mktemp("things"))
    yield things
    things.model.close()


@pytest.fixture
def things(made):
    """The same for each test, as it was when it was made."""
    made.reset()
    return made


def assert_works(things: Things) -> None:
    """The context decodes from an empty memory and nothing is broken."""
    things.reset()
    assert feed(things.ctx, [5, 6]).shape == (things.model.n_vocab,)
    assert things.vocab.tokenize("hello")


def test_the_table_is_complete():
    """A public method that is in no table is a method whose misuse nobody has thought of."""
    known = {*CALLS, *ELSEWHERE, *ALIVE, *properties()}
    for kind in CLASSES:
        assert [name for name in public(kind) if name not in known] == []
    assert [name for name in known if name.split(".")[0] not in {kind.__name__ for kind in CLASSES}] == []


@pytest.mark.parametrize("name", [*CALLS, *properties()])
def test_the_right_call(things, name):
    """What the table calls right does work, so that the refusals below are refusals of what they say."""
    if name in CALLS:
        CALLS[name](things)
    elif name not in ("Batch.embd",):
        getattr(target(things, name), name.partition(".")[2])
    assert_works(things)


@pytest.mark.parametrize("first", ["context", "model", "both twice"])
def test_closed(tiny_path, tmp_path, first):
    """After close(), of the object or of its model, once or twice, every call is ClosedError or a fact of the past."""
    things = Things.make(tiny_path(), tmp_path)
    assert things.model.metadata  # read once, it stays
    victims = {"context": (things.ctx,), "model": (things.model,)}.get(first, (things.ctx, things.model) * 2)
    for victim in victims:
        victim.close()
    for name in (*CALLS, *ELSEWHERE, *properties()):
        if name.startswith("Batch") or (first == "context" and name.startswith(("Model", "Vocab"))):
            continue
        call = CALLS.get(name) or ELSEWHERE.get(name) or (lambda t, n=name: getattr(target(t, n), n.partition(".")[2]))
        if name in (*ALIVE, "Model.metadata", "Model.arch"):
            call(things)
            continue
        try:
            call(things)
        except lc.ClosedError:
            pass
        except lc.UnsupportedError:
            assert name in ELSEWHERE, name
        else:
            pytest.fail(f"{name} was not refused")
    things.model.close()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_calls_for_others(things, name):
    """What this model or context cannot do is refused by name."""
    with pytest.raises(lc.LlamaCoreError):
        ELSEWHERE[name](things)
    assert_works(things)


@pytest.mark.parametrize("name", NUMBER_SLOTS)
def test_numbers_out_of_range(things, name):
    """Negative, huge, fractional and not even a number: each is refused and nothing breaks."""
    for number in NUMBERS:
        if number in (2**31,) and name in ("Memory.seq_add delta",):
            number = 2**31 + 1
        with pytest.raises((lc.LlamaCoreError, *PYTHONS_OWN)) as caught:
            NUMBER_SLOTS[name](things, number)
        assert not isinstance(caught.value, (lc.NativeError, lc.BrokenError)), caught.value
    assert_works(things)


@pytest.mark.parametrize("name", OTHERS)
def test_other_misuse(things, name):
    """Wrong types, wrong places, wrong order."""
    with pytest.raises((lc.LlamaCoreError, *PYTHONS_OWN)) as caught:
        OTHERS[name](things)
    assert not isinstance(caught.value, (lc.NativeError, lc.BrokenError)), caught.value
    assert_works(things)


def test_from_a_callback(things, tiny_path):
    """Everything may be called while another model loads, from its progress callback."""
    errors = []

    def work(share: float) -> None:
        for name, call in CALLS.items():
            try:
                call(things)
            except lc.LlamaCoreError as error:
                errors.append((name, error))

    lc.Model.load(tiny_path("mamba"), progress=work).close()
    assert {name for name, _ in errors} <= {"Batch.add", "Batch.add_tokens", "Context.decode", "Memory.seq_div"} | {
        "Context.logits", "Context.logprobs", "Batch.seq_ids", "Batch.advance", "Batch.add_embd",
        "Context.sampled"
    }  # fmt: skip
    assert_works(things)


def test_in_a_forked_child(run_child, tiny_path, tmp_path):
    """In a child process every call on what the parent made is ClosedError, and the child ends well."""
    run_child(
        """
        import os, pathlib
        from misuse_table import ALIVE, CALLS, ELSEWHERE, Things
        things = Things.make(sys.argv[1], pathlib.Path(sys.argv[2]))
        child = os.fork()
        if child == 0:
            for name, call in {**CALLS, **ELSEWHERE}.items():
                if name.startswith("Batch"):
                    continue
                try:
                    call(things)
                except lc.ClosedError:
                    pass
                except lc.UnsupportedError as error:
                    assert name in ELSEWHERE, (name, error)
                else:
                    raise SystemExit(f"{name} was not refused")
            sys.exit(0)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        things.ctx.logits()
        """,
        tiny_path(),
        Path(tmp_path),
    )
