"""Speculation used wrongly: always a named error, and the session works afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from decoding import words
from gguf import GGUFReader
from speculating import Loop, plain

import llamacore as lc
from llamacore.core.batch import Batch
from llamacore.core.model import Model
from llamacore.core.speculative import (
    MtpSession,
    MtpSessionConfig,
    SpeculativeConfig,
    SpeculativeSession,
    mtp_context,
    require_compatible,
    speculative_types,
)

TinyPath = Callable[..., Path]
RunChild = Callable[..., str]
PROMPT = words(8)


@pytest.fixture(scope="module")
def model(tiny_path: TinyPath) -> Iterator[Model]:
    """A tiny hybrid model with an MTP block."""
    with Model.load(tiny_path("qwen35", n_nextn=1), load_mtp=True) as loaded:
        yield loaded


@pytest.fixture
def loop(model: Model) -> Iterator[Loop]:
    """A session of two sequences, with a prompt in the first."""
    with Loop(model, MtpSessionConfig(n_seq=2)) as made:
        made.prefill([PROMPT])
        yield made


def assert_works(model: Model, loop: Loop) -> None:
    """It gives what plain decoding gives."""
    for seq in range(2):
        if loop.session.pending(seq):
            loop.session.accept(seq, 0)
        loop.cut(seq, 0)
    assert loop.generate([PROMPT], 12) == plain(model, [PROMPT], 12)


# making one

CONFIGS: dict[str, dict[str, Any]] = {
    "no type": {"types": ()},
    "a number": {"types": 5},
    "numbers": {"types": (5,)},
    "no sequences": {"n_seq": 0},
    "half a sequence": {"n_seq": 1.5},
    "no tokens": {"n_draft_max": 0},
    "too many tokens": {"n_draft_max": 1025},
    "text": {"n_draft_max": "x"},
    "negative": {"n_min": -1},
    "more than the most": {"n_min": 4},
    "not a probability": {"p_min": 1.5},
    "nan": {"p_min": float("nan")},
    "n-grams of nothing": {"ngram_size_n": 0},
    "too long n-grams": {"ngram_size_m": 5000},
    "no switch": {"backend_sampling": 3},
    "no file": {"lookup_cache_static": "/nowhere"},
    "rising rates": {"synthetic_rates": (0.1, 0.2, 0.3)},
    "rates above one": {"synthetic_rates": (1.1, 0.2, 0.1)},
    "no rates": {"synthetic_rates": ()},
    "rates and length": {"synthetic_rates": (0.5,), "synthetic_length": 1.0},
    "no length": {"synthetic_length": 0.5},
    "endless length": {"synthetic_length": float("inf")},
    "negative seed": {"synthetic_seed": -1},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(name: str) -> None:
    with pytest.raises(lc.InvalidArgumentError):
        MtpSessionConfig(**CONFIGS[name])


def test_configurations_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MtpSessionConfig().n_seq = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        SpeculativeConfig("draft-mtp", n_drafts=3)  # type: ignore[call-arg]


PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    # configuration, options of the target, of the draft context, what the message says
    "unknown type": ({"types": "draft-magic"}, {}, {}, "there is no type"),
    "none": ({"types": "none"}, {}, {}, "there is no type"),
    "twice": ({"types": ("draft-mtp", "draft-mtp")}, {}, {}, "twice"),
    "two draft types": ({"types": ("draft-mtp", "draft-simple")}, {}, {}, "two types"),
    "rollback too small": ({"n_draft_max": 4}, {"n_rs_seq": 3}, {}, "n_rs_seq = 3"),
    "no rollback": ({}, {"n_rs_seq": 0}, {}, "n_rs_seq = 0"),
    "other sequences": ({"n_seq": 2}, {}, {}, "n_seq"),
    "fewer sequences": ({"n_seq": 1}, {"n_seq_max": 2}, {}, "must be equal"),
    "smaller batch": ({}, {}, {"n_batch": 64}, "n_batch"),
    "smaller context": ({}, {"n_ctx": 512}, {"n_ctx": 256}, "256 tokens"),
    "pooled": ({}, {"pooling_type": "mean", "embeddings": True}, {"pooling_type": "none"}, "pools"),
    "draft-simple of MTP": ({"types": "draft-simple"}, {}, {}, "is of type MTP"),
    "n-grams with a context": ({"types": "ngram-simple"}, {}, {}, "no draft context"),
    "rates for other places": ({"synthetic_rates": (0.5, 0.4)}, {}, {}, "3 values"),
    "too long": ({"synthetic_length": 5.0}, {}, {}, "within"),
    "more rows than a batch": (
        {"n_draft_max": 80, "n_seq": 2},
        {"n_rs_seq": 80, "n_batch": 90, "n_seq_max": 2, "n_ctx": 512},
        {},
        "rows",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_that_do_not_fit(model: Model, name: str) -> None:
    config, of_target, of_draft, message = PAIRS[name]
    options = {"n_ctx": 256, "n_threads": 1, "n_rs_seq": 4, **of_target}
    with model.context(**options) as ctx, mtp_context(ctx, **of_draft) as dft:
        with pytest.raises(lc.InvalidArgumentError, match=message):
            SpeculativeSession(SpeculativeConfig(**{"types": "draft-mtp", **config}), ctx, dft)
        if not of_target and not of_draft:
            MtpSession(ctx, dft).close()  # nothing is left behind


def test_contexts_of_other_kinds(model: Model, tiny_path: TinyPath) -> None:
    mtp = MtpSessionConfig()
    with model.context(n_ctx=128, n_threads=1, n_rs_seq=3) as ctx, mtp_context(ctx) as dft:
        for wrong, target, draft in (
            (5, ctx, dft), (mtp, 5, dft), (mtp, None, dft), (mtp, ctx, 5), (mtp, ctx, None), (mtp, ctx, ctx),
            (mtp, dft, ctx), (mtp, dft, None), (SpeculativeConfig("ngram-mod"), dft, None),
        ):  # fmt: skip
            with pytest.raises(lc.InvalidArgumentError):
                SpeculativeSession(wrong, target, draft)  # type: ignore[arg-type]
        with pytest.raises(lc.InvalidArgumentError):
            MtpSession(ctx, dft, SpeculativeConfig("draft-mtp"))  # type: ignore[arg-type]
        with pytest.raises(lc.InvalidArgumentError):
            MtpSession(ctx, dft, MtpSessionConfig(types="ngram-mod"))
        with (
            model.context(n_ctx=128, n_threads=1) as plain_one,
            pytest.raises(lc.InvalidArgumentError, match="not of type MTP"),
        ):
            MtpSession(ctx, plain_one)
        with MtpSession(ctx, dft):
            for target, draft in ((ctx, dft), (ctx, None)):
                with pytest.raises(lc.InvalidArgumentError, match="another speculation session"):
                    kind = "draft-mtp" if draft else "ngram-mod"
                    SpeculativeSession(SpeculativeConfig(kind), target, draft)
        for arch, reason in (("t5", "one token after"), ("bert", "one token after"), ("mamba", "recurrent")):
            with (
                Model.load(tiny_path(arch)) as other,
                other.context(n_ctx=128, n_threads=1) as another,
                pytest.raises(lc.InvalidArgumentError, match=reason),
            ):
                SpeculativeSession(SpeculativeConfig("ngram-mod"), another)
        with Model.load(tiny_path("llama")) as other, other.context(n_ctx=128, n_threads=1) as foreign:
            for kind in ("draft-eagle3", "draft-dflash", "draft-dspark"):
                with pytest.raises(lc.InvalidArgumentError, match=r"EAGLE-3|DFlash|rows"):
                    SpeculativeSession(SpeculativeConfig(kind), ctx, foreign)


def test_models_without_heads(tiny_path: TinyPath) -> None:
    for arch, options in (("llama", {}), ("qwen35", {"n_nextn": 1})):
        with (
            Model.load(tiny_path(arch, **options), load_mtp=False) as other,
            other.context(n_ctx=128, n_threads=1) as ctx,
            pytest.raises(lc.UnsupportedError, match="load_mtp"),
        ):
            mtp_context(ctx)
    with pytest.raises(lc.InvalidArgumentError):
        mtp_context(None)  # type: ignore[arg-type]
    with pytest.raises((lc.LlamaCoreError, AttributeError)):
        require_compatible(None, None)  # type: ignore[arg-type]
    with pytest.raises((lc.LlamaCoreError, TypeError)):
        speculative_types(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"\x01", bytes(range(256)), b"\x01" * 4096, b"\xff" * 24])
def test_lookup_caches_of_garbage(tiny_path: TinyPath, tmp_path: Path, content: bytes) -> None:
    """A file that is none is refused, or drafts tokens that the vocabulary has."""
    path = tmp_path / "cache"
    path.write_bytes(content)
    with Model.load(tiny_path("llama")) as target, target.context(n_ctx=128, n_threads=1) as ctx:
        for name in ("lookup_cache_static", "lookup_cache_dynamic"):
            config = SpeculativeConfig("ngram-cache", **{name: path})
            try:
                session = SpeculativeSession(config, ctx)
            except lc.LlamaCoreError:
                continue
            with session:
                session.begin(0, [16843009 % 300] * 20)
                assert all(0 <= token < target.n_vocab for token in session.draft(0, 20, 5))


# using it


def decoded(loop: Loop, tokens: list[int], pos: int, seq: int = 0, **options: Any) -> Batch:
    """A batch that the target has decoded."""
    batch = Batch(64)
    batch.add_tokens(tokens, pos=pos, seq_id=seq, **options)
    loop.ctx.decode(batch)
    return batch


def twice(loop: Loop) -> None:
    batch = decoded(loop, [5, 6], 7)
    loop.session.process(batch)
    loop.session.process(batch)


def stale(loop: Loop) -> None:
    batch = decoded(loop, [5, 6], 7)
    decoded(loop, [5, 6], 9)
    loop.session.process(batch)


def changed(loop: Loop) -> None:
    batch = decoded(loop, [5, 6], 7)
    batch.tokens[1] = 7
    loop.session.process(batch)


def moved(loop: Loop) -> None:
    batch = decoded(loop, [5, 6], 7)
    batch.clear()
    batch.add_tokens([5, 6], pos=7, seq_id=1)
    loop.session.process(batch)


def grown(loop: Loop) -> None:
    batch = decoded(loop, [5, 6], 7)
    batch.add(7, 9)
    loop.session.process(batch)


def mixed(loop: Loop) -> None:
    batch = Batch(64)
    for row in range(4):
        batch.add(5, (7 if row % 2 == 0 else 0) + row // 2, (row % 2,))
    loop.ctx.decode(batch)
    loop.session.process(batch)


def failed(loop: Loop) -> None:
    batch = decoded(loop, [5, 6], 7)
    other = Batch(4)
    other.add(5, 500, (0,))
    other.add(5, 3, (0,))
    with pytest.raises(lc.LlamaCoreError):
        loop.ctx.decode(other)
    loop.ctx.cancel()
    with pytest.raises(lc.AbortedError):
        decoded(loop, [5, 6], 9)
    loop.ctx.resume()
    loop.session.process(batch)


def untrimmed(loop: Loop) -> None:
    draft = loop.session.draft(0, 7, 5)
    batch = decoded(loop, [5, *draft], 7, outputs="all")
    loop.session.process(batch)


def answered_late(loop: Loop) -> None:
    draft = loop.session.draft(0, 7, 5)
    assert loop.dft is not None
    loop.dft.memory.seq_rm(0, 7)
    loop.session.process(decoded(loop, [5, *draft], 7, outputs="all"))
    loop.session.process(decoded(loop, [5], 8 + len(draft)))


def verified(loop: Loop, n_accepted: Any) -> None:
    draft = loop.session.draft(0, 7, 5)
    assert len(draft) == 3 and loop.dft is not None
    loop.dft.memory.seq_rm(0, 7)
    loop.session.process(decoded(loop, [5, *draft], 7, outputs="all"))
    loop.session.accept(0, n_accepted)


def partly_verified(loop: Loop) -> None:
    draft = loop.session.draft(0, 7, 5)
    assert loop.dft is not None
    loop.dft.memory.seq_rm(0, 7)
    loop.session.process(decoded(loop, [5, draft[0]], 7, outputs="all"))
    loop.session.accept(0, 2)


def drafted_twice(loop: Loop) -> None:
    loop.session.draft(0, 7, 5)
    assert loop.dft is not None
    loop.dft.memory.seq_rm(0, 7)
    loop.session.draft(0, 7, 5)


def unprocessed(loop: Loop) -> None:
    decoded(loop, [5, 6], 7)
    loop.session.draft(0, 9, 5)


MISUSE: dict[str, Callable[[Loop], object]] = {
    "process a batch twice": twice,
    "process a stale batch": stale,
    "process a changed batch": changed,
    "process another sequence": moved,
    "process a batch that grew": grown,
    "process mixed rows": mixed,
    "process after a failed decode": failed,
    "process with drafts in the memory": untrimmed,
    "process before an answer": answered_late,
    "process what was not decoded": lambda s: s.session.process(Batch(4)),
    "process a list": lambda s: s.session.process([1, 2]),  # type: ignore[arg-type]
    "process None": lambda s: s.session.process(None),  # type: ignore[arg-type]
    "process embeddings": lambda s: s.session.process(Batch(4, n_embd=s.ctx.model.n_embd_inp)),
    "process no rows": lambda s: s.session.process(decoded(s, [5], 7), 0),
    "process more rows": lambda s: s.session.process(decoded(s, [5], 7), 2),
    "process negative rows": lambda s: s.session.process(decoded(s, [5], 7), -1),
    "process huge rows": lambda s: s.session.process(decoded(s, [5], 7), 2**40),
    "process text rows": lambda s: s.session.process(decoded(s, [5], 7), "x"),  # type: ignore[arg-type]
    "draft twice": drafted_twice,
    "draft without processing": unprocessed,
    "draft at another position": lambda s: s.session.draft(0, 3, 5),
    "draft at a negative position": lambda s: s.session.draft(0, -1, 5),
    "draft far away": lambda s: s.session.draft(0, 2**31 - 1, 5),
    "draft further": lambda s: s.session.draft(0, 2**31, 5),
    "draft for nobody": lambda s: s.session.draft(2, 7, 5),
    "draft for less than nobody": lambda s: s.session.draft(-1, 7, 5),
    "draft for a name": lambda s: s.session.draft("x", 7, 5),  # type: ignore[arg-type]
    "draft after no token": lambda s: s.session.draft(0, 7, 2**30),
    "draft after a negative token": lambda s: s.session.draft(0, 7, -1),
    "draft less than nothing": lambda s: s.session.draft(0, 7, 5, -1),
    "draft a fraction": lambda s: s.session.draft(0, 7, 5, 1.5),  # type: ignore[arg-type]
    "draft for one twice": lambda s: s.session.draft_many([0, 0], [7, 7], [5, 5]),
    "draft for too many": lambda s: s.session.draft_many([0, 1, 0], [7, 7, 7], [5, 5, 5]),
    "draft of other lengths": lambda s: s.session.draft_many([0, 1], [7], [5, 5]),
    "draft of other limits": lambda s: s.session.draft_many([0], [7], [5], [1, 2]),
    "accept without a proposal": lambda s: s.session.accept(0, 0),
    "accept for nobody": lambda s: s.session.accept(7, 0),
    "accept for a name": lambda s: s.session.accept("x", 0),  # type: ignore[arg-type]
    "accept far away": lambda s: s.session.accept(2**40, 0),
    "accept before processing": lambda s: (s.session.draft(0, 7, 5), s.session.accept(0, 1)),
    "accept more than was drafted": lambda s: verified(s, 4),
    "accept more than was processed": partly_verified,
    "accept a negative number": lambda s: verified(s, -1),
    "accept a huge number": lambda s: verified(s, 2**40),
    "accept nonsense": lambda s: verified(s, "x"),
    "begin for nobody": lambda s: s.session.begin(2, [5]),
    "begin for less than nobody": lambda s: s.session.begin(-1, [5]),
    "begin with no token": lambda s: s.session.begin(0, [5, 2**30]),
    "begin with a negative token": lambda s: s.session.begin(0, [5, -1]),
    "begin with huge tokens": lambda s: s.session.begin(0, [2**40]),
    "begin with text": lambda s: s.session.begin(0, "hello"),  # type: ignore[arg-type]
    "begin with None": lambda s: s.session.begin(0, None),  # type: ignore[arg-type]
    "pending of nobody": lambda s: s.session.pending(2),
    "flush of nobody": lambda s: s.session.flush(2),
    "state of MTP": lambda s: s.session.get_state(0),
    "state of nobody": lambda s: s.session.get_state(9),
    "state for MTP": lambda s: s.session.set_state(0, b"x" * 100),
    "state of text": lambda s: s.session.set_state(0, "x"),  # type: ignore[arg-type]
    "samplers of the draft": lambda s: s.dft and s.dft.set_sampler(0, None),
    "rows of the target": lambda s: s.ctx.set_embeddings_nextn(True),
    "block of the draft": lambda s: s.dft and s.dft.set_nextn_layer_offset(0),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(model: Model, loop: Loop, name: str) -> None:
    with pytest.raises(lc.LlamaCoreError) as caught:
        MISUSE[name](loop)
    assert not isinstance(caught.value, (lc.NativeError, lc.BrokenError, lc.ClosedError)), caught.value
    assert_works(model, loop)


def test_rows_of_several_sequences(model: Model) -> None:
    with Loop(model, MtpSessionConfig(n_seq=2), kv_unified=True) as loop:
        batch = Batch(4, n_seq_max=2)
        batch.add(5, 0, (0, 1))
        loop.ctx.decode(batch)
        with pytest.raises(lc.InvalidArgumentError, match="decoded last"):
            loop.session.process(batch)


def test_a_proposal_is_given_up(model: Model, loop: Loop) -> None:
    """Before it was checked, by accept(0) or a new text; such a one counts as drafted and not as checked."""
    assert loop.dft is not None
    for give_up in (lambda: loop.session.accept(0, 0), lambda: loop.session.begin(0, PROMPT[:-1])):
        assert len(loop.session.draft(0, 7, PROMPT[-1])) == loop.session.pending(0) == 3
        loop.dft.memory.seq_rm(0, 7)
        give_up()
        assert loop.session.pending(0) == 0
    assert loop.session.stats().n_accept == 0
    assert_works(model, loop)


def test_no_room_for_a_draft(model: Model, loop: Loop) -> None:
    assert loop.session.draft_many([], [], []) == []
    assert loop.session.draft_many([0, 1], [7, 0], [5, 5], [0, 0]) == [[], []]
    assert len(loop.session.draft(0, 7, 5, 2)) == 2
    assert loop.session.pending(0) == 2


def test_the_draft_context_is_cancelled(model: Model, loop: Loop) -> None:
    """Processing fails, drafting gives nothing; with its memory emptied the draft context goes on in the middle."""
    assert loop.dft is not None
    loop.dft.cancel()
    batch = decoded(loop, [PROMPT[-1], 6], 7)
    with pytest.raises(lc.DecodeError):
        loop.session.process(batch)
    assert loop.session.draft(0, 7, PROMPT[-1]) == []
    loop.dft.resume()
    loop.dft.memory.seq_rm(0)
    loop.session.process(decoded(loop, [7, 8], 9))
    assert len(loop.session.draft(0, 11, 9)) == 3
    assert_works(model, loop)


def test_the_draft_context_is_full(model: Model) -> None:
    """At the end of the context there is no room to draft: nothing is drafted, and nothing breaks."""
    with Loop(model, MtpSessionConfig(), n_ctx=256) as loop:
        loop.batch.add_tokens(words(255))
        loop.ctx.decode(loop.batch)
        loop.session.process(loop.batch)
        assert len(loop.session.draft(0, 255, 5)) <= 1
        loop.cut(0, 0)
        assert loop.generate([PROMPT], 12) == plain(model, [PROMPT], 12)


# owners and threads

METHODS: dict[str, Callable[[SpeculativeSession], object]] = {
    "begin": lambda s: s.begin(0, [5]),
    "process": lambda s: s.process(Batch(1)),
    "draft": lambda s: s.draft(0, 0, 5),
    "draft_many": lambda s: s.draft_many([0], [0], [5]),
    "accept": lambda s: s.accept(0, 0),
    "pending": lambda s: s.pending(0),
    "flush": lambda s: s.flush(0),
    "get_state": lambda s: s.get_state(0),
    "set_state": lambda s: s.set_state(0, b""),
    "stats": lambda s: s.stats(),
    "reset_stats": lambda s: s.reset_stats(),
}


def test_a_token_that_the_draft_model_has_not(tiny_path: TinyPath) -> None:
    """Vocabularies may differ in length: tokens of the target alone are no part of what is drafted for."""
    draft = tiny_path("llama", n_vocab=700, vocab="spm")
    fields = GGUFReader(draft).fields
    more = {"tokens": [f"<pad {k}>" for k in range(10)], "scores": [0.0] * 10, "token_type": [5] * 10}
    keys = {f"tokenizer.ggml.{name}": values for name, values in more.items()}
    longer = {key: fields[key].contents() + values for key, values in keys.items()}
    target, n_vocab = tiny_path("llama", n_vocab=710, vocab="spm", metadata=longer), 710
    with (
        Model.load(target) as model,
        Model.load(draft) as small,
        Loop(model, SpeculativeConfig(types=("draft-simple",)), draft_model=small) as loop,
    ):
        loop.prefill([PROMPT])
        batch = decoded(loop, [5, n_vocab - 1], len(PROMPT) - 1)
        with pytest.raises(lc.InvalidArgumentError, match=f"token {n_vocab - 1} is not in the vocabulary"):
            loop.session.process(batch)
        loop.cut(0, len(PROMPT) - 1)
        assert loop.session.draft(0, len(PROMPT) - 1, PROMPT[-1])


def test_every_method_is_tried() -> None:
    public = {name for name in dir(SpeculativeSession) if not name.startswith("_")}
    assert public - set(METHODS) == {"close", "closed", "need_embd_pre_norm"}


@pytest.mark.parametrize("first", ["session", "draft", "target", "model"])
def test_closed(tiny_path: TinyPath, first: str) -> None:
    """Whatever is closed first, the session is closed with it, and a second time does nothing."""
    model = Model.load(tiny_path("qwen35", n_nextn=1), load_mtp=True)
    loop = Loop(model, MtpSessionConfig())
    loop.prefill([PROMPT])
    session = loop.session
    victim = {"session": session, "draft": loop.dft, "target": loop.ctx, "model": model}[first]
    for _ in range(2):
        victim.close()  # type: ignore[union-attr]
    assert session.closed and "closed" in repr(session)
    for name, method in METHODS.items():
        with pytest.raises(lc.ClosedError):
            method(session)
            pytest.fail(f"{name} was not refused")
    assert session.n_seq == 1 and session.types == ("draft-mtp",)
    if first == "session":
        decoded(loop, [5], 7)  # the contexts are as before
    model.close()


def test_contexts_live_as_long(tiny_path: TinyPath) -> None:
    """The session alone keeps all that it needs; without it all goes."""
    model = Model.load(tiny_path("qwen35", n_nextn=1), load_mtp=True)
    ctx = model.context(n_ctx=128, n_threads=1, n_rs_seq=3)
    session = MtpSession(ctx, mtp_context(ctx))
    del model, ctx
    gc.collect()
    batch = Batch(4)
    batch.add_tokens([5, 6, 7])
    session._target.decode(batch)
    session.process(batch)
    session.begin(0, [5, 6, 7])
    assert len(session.draft(0, 3, 8)) == 3
    del session
    gc.collect()


def test_in_use_by_another_thread(loop: Loop) -> None:
    for held in (loop.session, loop.ctx, loop.dft):
        assert held is not None
        with held._held():
            for name in ("begin", "process", "draft", "get_state"):
                with pytest.raises(lc.BusyError):
                    METHODS[name](loop.session)
    loop.batch._decoding = True
    with pytest.raises(lc.BusyError):
        loop.session.process(loop.batch)
    loop.batch._decoding = False
    assert len(loop.session.draft(0, 7, 5)) == 3


def test_closed_while_the_target_computes(model: Model) -> None:
    """close() waits for the decode of another thread, which then goes on without a session."""
    with Loop(model, MtpSessionConfig()) as loop:
        done, errors = threading.Event(), []

        def compute() -> None:
            try:
                while not done.is_set():
                    with contextlib.suppress(lc.BusyError):  # a session is being made
                        loop.ctx.memory.clear()
                        decoded(loop, words(48), 0)
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=compute)
        thread.start()
        assert loop.dft is not None
        for _ in range(4):
            loop.session.close()
            while True:
                try:
                    loop.session = MtpSession(loop.ctx, loop.dft)
                    break
                except lc.BusyError:
                    pass
        done.set()
        thread.join()
        loop.session.close()
        assert errors == []


def test_many_threads_share_a_session(model: Model, loop: Loop) -> None:
    """Each call is one thread's; the others are told, and nothing is mixed up."""
    busy, errors = [], []

    def work() -> None:
        for step in range(100):
            try:
                if step % 3 == 0:
                    loop.session.stats()
                elif step % 3 == 1:
                    loop.session.begin(1, words(50))
                else:
                    loop.session.draft(0, 7, 5, 0)
            except lc.BusyError as error:
                busy.append(error)
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_works(model, loop)


def test_forked(run_child: RunChild, tiny_path: TinyPath) -> None:
    """A child process is told that it has no session."""
    run_child(
        f"""
        import os
        import llamacore as lc
        from llamacore.core.speculative import MtpSession, mtp_context
        model = lc.Model.load({str(tiny_path("qwen35", n_nextn=1))!r}, load_mtp=True)
        ctx = model.context(n_ctx=128, n_threads=1, n_rs_seq=3)
        session = MtpSession(ctx, mtp_context(ctx))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                session.draft(0, 0, 5)
            except lc.ClosedError:
                code = 0
            session.close()
            os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
        session.stats()
        """
    )


def test_left_open_at_exit(run_child: RunChild, tiny_path: TinyPath) -> None:
    """The interpreter ends with everything open, in whatever order it is collected."""
    run_child(
        f"""
        import llamacore as lc
        from llamacore.core.speculative import MtpSession, mtp_context
        model = lc.Model.load({str(tiny_path("qwen35", n_nextn=1))!r}, load_mtp=True)
        ctx = model.context(n_ctx=128, n_threads=1, n_rs_seq=3)
        session = MtpSession(ctx, mtp_context(ctx))
        cycle = [session, ctx]
        cycle.append(cycle)
        """
    )
