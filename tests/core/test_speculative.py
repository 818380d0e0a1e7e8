"""Speculation gives what plain decoding gives, with every type that a model here can draft with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from decoding import words
from draft_models import dflash, eagle3
from speculating import Loop, SamplerMaker, greedy, plain, seeded

import llamacore as lc
from llamacore.core.batch import Batch
from llamacore.core.model import Model
from llamacore.core.speculative import (
    MtpSession,
    MtpSessionConfig,
    SpeculativeConfig,
    SpeculativeSession,
    draft_context,
    mtp_context,
    require_compatible,
    speculative_types,
)
from llamacore.hub import demo_model_path
from llamacore.testing import tiny_model

STORIES = (
    "Once upon a time there was a quiet owl",
    "One night, the candle went out",
    "Tom and Anna",
    "The fox came to the door and asked for a cup of tea and a spoon of honey. Then",
)
TinyPath = Callable[..., Path]
NGRAMS = ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache")
REPEATED = list(range(20, 50)) * 6  # what n-grams are found in


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """The demo model with its MTP block."""
    with Model.load(demo_model_path(), load_mtp=True) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def prompts(model: Model) -> list[list[int]]:
    """Prompts of different lengths."""
    return [model.vocab.tokenize(text) for text in STORIES]


# MTP


@pytest.mark.parametrize("make", [greedy, seeded])
@pytest.mark.parametrize("n_draft_max", [1, 2, 3, 5])
def test_mtp_gives_what_plain_decoding_gives(
    model: Model, prompts: list[list[int]], make: SamplerMaker, n_draft_max: int
) -> None:
    with Loop(model, MtpSessionConfig(n_draft_max=n_draft_max)) as loop:
        for prompt in prompts:
            assert loop.generate([prompt], 60, make) == plain(model, [prompt], 60, make)
            loop.cut(0, 0)


def test_mtp_of_several_sequences(model: Model, prompts: list[list[int]]) -> None:
    """Drafted in one call, verified in one batch, of lengths that change: each as if it were alone."""
    expected = plain(model, prompts, 60, seeded)
    with Loop(model, MtpSessionConfig(n_seq=4)) as loop:
        assert loop.generate(prompts, 60, seeded, n_max=lambda step, seq: (step + seq) % 4) == expected
        assert loop.session.stats().drafted > 0


def test_mtp_of_several_sequences_in_one_memory(tiny_path: TinyPath) -> None:
    """With a unified memory what is rejected leaves holes, which other sequences fill: sums change in their last bits.

    Weights in F32 keep that small; quantised ones round their inputs, which makes more of it.
    """
    with Model.load(tiny_path("qwen35", n_nextn=1), load_mtp=True) as exact:
        prompts = [words(5 + 4 * seq, seed=seq) for seq in range(4)]
        with Loop(exact, MtpSessionConfig(n_seq=4), kv_unified=True) as loop:
            made = loop.generate(prompts, 60, n_max=lambda step, seq: (step + seq) % 4)
            assert made == plain(exact, prompts, 60)
            assert loop.session.stats().drafted > 0


def test_mtp_accepts_the_first_token(model: Model, prompts: list[list[int]]) -> None:
    """On texts of its own kind the trained block is right more than seven times in ten."""
    with Loop(model, MtpSessionConfig(n_seq=4)) as loop:
        loop.generate(prompts, 150)
        stats = loop.session.stats()
    assert stats.acceptance_per_position[0] > 0.7
    assert stats.mean_length > 2


def test_a_separate_model_of_the_heads(model: Model, prompts: list[list[int]]) -> None:
    with (
        Model.load(demo_model_path(), load_mtp=True) as heads,
        Loop(model, MtpSessionConfig(), draft_model=heads) as loop,
    ):
        assert loop.dft is not None and loop.dft.model is heads
        assert loop.generate(prompts[:1], 40) == plain(model, prompts[:1], 40)
        assert loop.session.stats().acceptance_per_position[0] > 0.7


def test_probability_limits_drafts(model: Model, prompts: list[list[int]]) -> None:
    """A high `p_min` drops what is unsure: fewer tokens, more of them right, the same text."""
    stats = []
    for p_min in (0.0, 0.9):
        with Loop(model, MtpSessionConfig(p_min=p_min, n_draft_max=4)) as loop:
            assert loop.generate(prompts[1:2], 100) == plain(model, prompts[1:2], 100)
            stats.append(loop.session.stats())
    assert stats[1].drafted < stats[0].drafted
    assert stats[1].acceptance > stats[0].acceptance


def test_short_drafts_are_dropped(model: Model, prompts: list[list[int]]) -> None:
    with Loop(model, MtpSessionConfig(p_min=0.9, n_min=3)) as loop:
        assert loop.generate(prompts[1:2], 100) == plain(model, prompts[1:2], 100)
        stats = loop.session.stats()
    assert 0 < stats.drafts < stats.n_draft
    assert stats.drafted == 3 * stats.drafts


@pytest.mark.parametrize("backend_sampling", [False, True])
def test_where_drafts_are_sampled(model: Model, prompts: list[list[int]], backend_sampling: bool) -> None:
    with Loop(model, MtpSessionConfig(backend_sampling=backend_sampling)) as loop:
        assert loop.generate(prompts[:1], 40) == plain(model, prompts[:1], 40)
        assert loop.session.stats().acceptance > 0.5


def test_two_heads_of_an_architecture_that_runs_one(tiny_path: TinyPath) -> None:
    with (
        Model.load(tiny_path("qwen35", n_nextn=2), load_mtp=True) as two,
        two.context(n_ctx=128, n_threads=1, n_rs_seq=3) as ctx,
        pytest.raises(lc.ContextError, match="single MTP"),
    ):
        mtp_context(ctx)


# micro-batches


def nextn(model: Model, texts: list[list[int]], n_ubatch: int, kv_unified: bool) -> np.ndarray:
    """The next-n rows of a batch of several texts."""
    with model.context(
        n_ctx=1024, n_batch=256, n_ubatch=n_ubatch, n_seq_max=len(texts), n_threads=1, n_rs_seq=3, kv_unified=kv_unified
    ) as ctx:
        ctx.set_embeddings_nextn(True, masked=False)
        batch = Batch(256)
        for seq, text in enumerate(texts):
            batch.add_tokens(text, seq_id=seq)
        ctx.decode(batch)
        return np.stack([ctx.embeddings_nextn(row) for row in range(len(batch))])


@pytest.mark.parametrize("kv_unified", [False, True])
@pytest.mark.parametrize("lengths", [(60,), (40, 3, 17), (4, 1, 4, 2), (1, 4, 1), (50, 1, 1, 1)])
def test_rows_of_batches_that_are_cut(model: Model, lengths: tuple[int, ...], kv_unified: bool) -> None:
    """A hybrid memory cuts a batch of unequal sequences into several: their rows come back in order, none is lost."""
    text = model.vocab.tokenize(" ".join(STORIES)) * 2
    texts = [text[seq : seq + length] for seq, length in enumerate(lengths)]
    alone = np.concatenate([nextn(model, [one], 256, kv_unified) for one in texts])
    assert np.isfinite(alone).all()
    for n_ubatch in (256, 32, 8):
        together = nextn(model, texts, n_ubatch, kv_unified)
        np.testing.assert_allclose(together, alone, atol=1e-3 * np.abs(alone).max())


def test_drafts_of_batches_that_are_cut(model: Model, prompts: list[list[int]]) -> None:
    """Prompts and verified batches larger than a micro-batch: the same drafts, so the same acceptance."""
    stats = []
    for n_ubatch in (512, 8):
        with Loop(model, MtpSessionConfig(n_seq=4), n_ubatch=n_ubatch) as loop:
            assert loop.generate(prompts, 40) == plain(model, prompts, 40)
            stats.append(loop.session.stats())
    assert stats[0].positions == stats[1].positions


# the other types


@pytest.mark.parametrize("n_seq", [1, 3])
def test_a_draft_model_that_is_the_target(tiny_path: TinyPath, n_seq: int) -> None:
    """It is always right, as far as the place of a token in a batch makes no difference."""
    with Model.load(tiny_path("llama")) as target, Model.load(tiny_path("llama")) as draft:
        config = SpeculativeConfig("draft-simple", n_seq=n_seq, n_draft_max=4)
        prompts = [words(6 + seq, seed=seq) for seq in range(n_seq)]
        with Loop(target, config, draft_model=draft) as loop:
            assert loop.generate(prompts, 40) == plain(target, prompts, 40)
            assert loop.session.stats().acceptance > 0.95


def test_a_draft_model_that_is_wrong(tiny_path: TinyPath, tmp_path: Path) -> None:
    """Another model with the same vocabulary: its drafts are rejected, and the text is still the target's."""
    other = tiny_model(tmp_path / "other.gguf", arch="llama", seed=7)
    with Model.load(tiny_path("llama")) as target, Model.load(other) as draft:
        require_compatible(target, draft)
        with Loop(target, SpeculativeConfig("draft-simple"), draft_model=draft) as loop:
            assert loop.generate([words(8)], 40, seeded) == plain(target, [words(8)], 40, seeded)
            assert loop.session.stats().acceptance < 0.5


@pytest.fixture(scope="module")
def three_layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A target whose inner values a draft model reads."""
    path = tiny_model(tmp_path_factory.mktemp("target") / "target.gguf", arch="llama", n_layer=3, vocab="spm")
    with Model.load(path) as loaded:
        yield loaded


READERS: dict[str, Callable[[Path], Path]] = {
    "draft-eagle3": lambda path: eagle3(path, [0, 1, 2]),
    "draft-eagle3 of the last output": lambda path: eagle3(path, [1, 2, 3]),
    "draft-dflash": lambda path: dflash(path, [1, 2]),
    "draft-dspark": lambda path: dflash(path, [1, 2], markov=True),
}


@pytest.mark.parametrize("n_seq", [1, 3])
@pytest.mark.parametrize("name", READERS)
def test_models_that_read_the_target(three_layers: Model, tmp_path: Path, name: str, n_seq: int) -> None:
    """Random drafts from inner values of the target: hardly ever right, and the text is the target's."""
    path = READERS[name](tmp_path / "draft.gguf")
    kind = name.split()[0]
    assert speculative_types(path) == (kind,)
    prompts = [words(5 + 3 * seq, seed=seq) for seq in range(n_seq)]
    config = SpeculativeConfig(kind, n_seq=n_seq)
    with Model.load(path) as draft, Loop(three_layers, config, draft_model=draft) as loop:
        assert loop.session.need_embd_nextn == (name == "draft-eagle3 of the last output")
        assert loop.generate(prompts, 30, seeded) == plain(three_layers, prompts, 30, seeded)
        assert loop.session.stats().drafted > 30


def test_state_of_eagle3(tmp_path: Path) -> None:
    """On a recurrent target the last row is no part of any memory: with it restored the same is drafted."""
    path = tiny_model(tmp_path / "target.gguf", arch="qwen35", n_layer=4, vocab="spm")
    config = SpeculativeConfig("draft-eagle3")
    with (
        Model.load(path) as target,
        Model.load(eagle3(tmp_path / "draft.gguf", [1, 2, 3])) as draft,
        Loop(target, config, draft_model=draft) as loop,
    ):
        session = loop.session
        with pytest.raises(lc.UnsupportedError):
            session.get_state(0)  # nothing was processed
        loop.prefill([words(9)])
        state = session.get_state(0)
        first = session.draft(0, 8, 5)
        for wrong in (b"", state[:-1], state + b"x", b"\xff" * len(state)):
            with pytest.raises(lc.InvalidArgumentError):
                session.set_state(0, wrong)
        session.accept(0, 0)
        loop.cut(0, 0)
        loop.prefill([words(12, seed=1)])
        assert session.get_state(0) != state
        loop.cut(0, 0)
        loop.prefill([words(9)])
        session.set_state(0, state)
        assert session.draft(0, 8, 5) == first != []
        session.accept(0, 0)
        loop.cut(0, 0)
        assert loop.generate([words(9)], 30) == plain(target, [words(9)], 30)


def test_the_layers_of_another_target(tiny_path: TinyPath, tmp_path: Path) -> None:
    """A target with fewer layers than a draft model reads is refused."""
    with (
        Model.load(eagle3(tmp_path / "draft.gguf", [1, 2, 9])) as draft,
        Model.load(tiny_path("llama")) as target,
        target.context(n_ctx=128, n_threads=1) as ctx,
        draft_context(ctx, draft, "draft-eagle3") as dft,
        pytest.raises(lc.InvalidArgumentError, match="layer 9"),
    ):
        SpeculativeSession(SpeculativeConfig("draft-eagle3"), ctx, dft)


@pytest.mark.parametrize("kind", NGRAMS)
def test_ngrams(tiny_path: TinyPath, kind: str) -> None:
    """Drafts are looked up in a text that repeats itself; what comes out is the target's all the same."""
    config = SpeculativeConfig(kind, ngram_size_n=4, ngram_size_m=8, ngram_mod_n_match=4, ngram_mod_n_min=1)
    with Model.load(tiny_path("llama")) as target, Loop(target, config) as loop:
        prompt = [*REPEATED, 20, 21, 22, 23, 24]
        assert loop.generate([prompt], 20) == plain(target, [prompt], 20)
        assert loop.session.stats().drafts > 0
        # what n-grams propose is how the text went on before
        loop.cut(0, 0)
        loop.prefill([prompt])
        assert loop.session.draft(0, len(prompt) - 1, prompt[-1])[:2] == [25, 26]


@pytest.mark.parametrize("kind", NGRAMS)
def test_texts_that_change_under_ngrams(tiny_path: TinyPath, kind: str) -> None:
    """Texts that are cut, replaced and grown: the maps of upstream point into them, and must not point beyond."""
    config = SpeculativeConfig(
        kind, ngram_size_n=2, ngram_size_m=4, ngram_mod_n_match=2, ngram_mod_n_min=0, ngram_min_hits=1
    )
    rng = np.random.default_rng(3)
    with Model.load(tiny_path("llama")) as target, Loop(target, config) as loop:
        for _ in range(300):
            text = [int(token) for token in rng.integers(10, 14, int(rng.integers(0, 90)))]
            loop.session.begin(0, text)
            for _ in range(int(rng.integers(0, 4))):
                past = int(rng.integers(0, len(text) + 1))
                draft = loop.session.draft(0, past, 10)
                assert all(0 <= token < target.n_vocab for token in draft)
                if draft:
                    loop.session.accept(0, 0)


def test_ngrams_before_mtp(model: Model, prompts: list[list[int]]) -> None:
    """Two types in one session: n-grams where they find something, the MTP block otherwise."""
    config = MtpSessionConfig(types=("draft-mtp", "ngram-map-k"), ngram_size_n=3, ngram_size_m=6, n_seq=2)
    pair = [prompts[0] * 3, prompts[3]]
    with Loop(model, config, n_rs_seq=6) as loop:
        assert loop.session.n_draft_max == 6
        assert loop.generate(pair, 60) == plain(model, pair, 60)
        assert len(loop.session.stats().positions) == 6
        assert loop.session.stats().positions[5][0] > 0  # no MTP draft is that long


def test_drafts_for_a_recurrent_target_are_no_longer_than_it_can_take_back(model: Model) -> None:
    config = SpeculativeConfig("ngram-simple", ngram_size_n=3, ngram_size_m=48)
    with model.context(n_ctx=512, n_threads=1, n_rs_seq=5) as ctx, SpeculativeSession(config, ctx) as session:
        assert session.n_draft_max == 5


# what a session tells


def test_facts(model: Model) -> None:
    config = MtpSessionConfig(n_seq=2, n_draft_max=2, p_min=0.25)
    with (
        model.context(n_ctx=256, n_threads=1, n_rs_seq=3, n_seq_max=2) as ctx,
        mtp_context(ctx) as dft,
        MtpSession(ctx, dft, config) as session,
    ):
        assert (session.n_seq, session.n_draft_max, session.n_min, session.p_min) == (2, 2, 0, 0.25)
        assert session.types == ("draft-mtp",)
        assert not session.need_embd
        assert session.need_embd_nextn and session.need_embd_pre_norm
        assert dft.params.ctx_type == "mtp" and dft.n_ctx == ctx.n_ctx and dft.n_seq_max == 2
        stats = session.stats()
        assert (stats.n_draft, stats.drafted, stats.positions) == (0, 0, ((0, 0), (0, 0)))
        assert math.isnan(stats.acceptance) and math.isnan(stats.mean_length)


def test_the_target_is_left_as_it_was(model: Model) -> None:
    """The session switches next-n rows on, and off again when it is closed."""
    with model.context(n_ctx=256, n_threads=1, n_rs_seq=3) as ctx, mtp_context(ctx) as dft:
        batch = Batch(8)
        batch.add_tokens([5, 6, 7])
        with MtpSession(ctx, dft), pytest.raises(lc.InvalidArgumentError, match="relies on"):
            ctx.set_embeddings_nextn(False)
        ctx.set_embeddings_nextn(True)
        ctx.decode(batch)
        assert ctx.embeddings_nextn(-1).shape == (model.n_embd_out,)
        with MtpSession(ctx, dft):
            pass
        batch.clear()
        batch.add_tokens([5, 6, 7], pos=3)
        ctx.decode(batch)
        assert ctx.embeddings_nextn(-1).shape == (model.n_embd_out,)  # masked, as it was before


def test_statistics(model: Model, prompts: list[list[int]]) -> None:
    with Loop(model, MtpSessionConfig(n_seq=2)) as loop:
        loop.generate(prompts[:2], 30)
        stats = loop.session.stats()
        assert stats.n_begin == 2
        assert stats.drafted == sum(drafted for drafted, _ in stats.positions)
        assert stats.accepted == sum(accepted for _, accepted in stats.positions)
        assert stats.drafts == stats.n_accept == stats.positions[0][0]
        assert stats.drafts_accepted == stats.positions[0][1]
        assert stats.mean_length == pytest.approx(1 + stats.accepted / stats.n_accept)
        assert stats.t_draft_ms > 0 and stats.t_process_ms > 0
        loop.session.reset_stats()
        assert loop.session.stats().n_draft == 0


def test_rows_behind_are_left_alone(model: Model, prompts: list[list[int]]) -> None:
    """`n_rows`: sequences at the end of a batch that are not drafted for are not decoded twice."""
    with Loop(model, MtpSessionConfig(n_seq=2)) as loop:
        loop.batch.add_tokens(prompts[0][:-1], seq_id=0)
        loop.batch.add_tokens(prompts[1][:-1], seq_id=1)
        loop.ctx.decode(loop.batch)
        loop.session.process(loop.batch, len(prompts[0]) - 1)
        assert loop.dft is not None
        assert loop.dft.memory.seq_pos_max(0) == len(prompts[0]) - 2
        assert loop.dft.memory.seq_pos_max(1) == -1
        assert len(loop.session.draft(0, len(prompts[0]) - 1, prompts[0][-1])) == 3


def test_a_text_that_is_met_in_the_middle(model: Model, prompts: list[list[int]]) -> None:
    """A draft context without the start of a text, as after a cache hit, drafts all the same."""
    prompt = prompts[3]
    with Loop(model, MtpSessionConfig()) as loop:
        loop.batch.add_tokens(prompt[:10])
        loop.ctx.decode(loop.batch)  # not processed
        loop.batch.clear()
        loop.batch.add_tokens(prompt[10:-1], pos=10)
        loop.ctx.decode(loop.batch)
        loop.session.process(loop.batch)
        loop.session.begin(0, prompt[:-1])
        assert len(loop.session.draft(0, len(prompt) - 1, prompt[-1])) == 3


# files and pairs of models


def test_types_of_files(tiny_path: TinyPath, tmp_path: Path) -> None:
    assert speculative_types(demo_model_path()) == ("draft-mtp",)
    assert speculative_types(tiny_path("qwen35", n_nextn=1)) == ("draft-mtp",)
    for arch in ("llama", "mamba", "bert", "qwen35"):
        assert speculative_types(tiny_path(arch)) == ()
    with pytest.raises(lc.ModelNotFoundError):
        speculative_types(tmp_path / "nothing.gguf")
    (tmp_path / "garbage.gguf").write_bytes(b"GGUF" + bytes(range(200)))
    with pytest.raises(lc.InvalidModelError):
        speculative_types(tmp_path / "garbage.gguf")


def test_models_of_other_vocabularies(model: Model, tiny_path: TinyPath) -> None:
    with Model.load(tiny_path("llama")) as other:
        with pytest.raises(lc.UnsupportedError, match="vocabulary"):
            require_compatible(model, other)
        require_compatible(model, model)
        with (
            model.context(n_ctx=128, n_threads=1, n_rs_seq=3) as ctx,
            other.context(n_ctx=128, n_threads=1) as dft,
            pytest.raises(lc.InvalidArgumentError, match="do not fit"),
        ):
            SpeculativeSession(SpeculativeConfig("draft-simple"), ctx, dft)
