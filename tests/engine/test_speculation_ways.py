"""The ways of drafting: what may be asked, what fits which model, and when drafting is left alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import llamacore as lc
from llamacore.engine.speculation.gain import GainEstimate
from llamacore.hub import demo_draft_path

Open = Callable[..., lc.Llama]


@pytest.fixture
def opened() -> Iterator[Open]:
    """A function that makes a `Llama` that drafts, closed after the test."""
    made: list[lc.Llama] = []

    def llama(model: Any, speculative: Any, **options: Any) -> lc.Llama:
        made.append(lc.Llama(model, n_ctx=512, n_threads=1, speculative=speculative, **options))
        return made[-1]

    yield llama
    for one in made:
        one.close()


def types(llama: lc.Llama) -> tuple[str, ...] | None:
    stats = llama.engine.stats().speculation
    return None if stats is None else stats.types


# what may be asked


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_max": 0}, {"n_max": -1}, {"n_max": 1025}, {"n_max": 2.0}, {"n_max": True}, {"n_max": None}, {"n_max": "3"},
        {"n_min": -1}, {"n_min": 4}, {"n_min": 0.5}, {"p_min": -0.1}, {"p_min": 1.1}, {"p_min": "0.5"}, {"p_min": None},
        {"p_min": float("nan")}, {"adaptive": 1}, {"adaptive": None}, {"backend_sampling": "yes"},
        {"synthetic_rates": (0.5,)}, {"synthetic_rates": (0.5, 0.6, 0.1)}, {"synthetic_rates": (2, 1, 0)},
        {"synthetic_rates": "abc"}, {"synthetic_rates": None}, {"synthetic_rates": 0.5},
        {"synthetic_rates": ("a", "b", "c")}, {"synthetic_rates": (float("nan"), 0.0, 0.0)},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("way", [lc.Mtp, lambda **options: lc.DraftModel(model="x.gguf", **options)])
def test_wrong_values(way, wrong):
    [name] = wrong
    with pytest.raises(lc.InvalidArgumentError, match=name):
        way(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_max": 0}, {"type": "ngram"}, {"type": "draft-mtp"}, {"type": None}, {"size_n": 0}, {"size_m": -1},
        {"min_hits": 0}, {"min_hits": 1.5}, {"n_match": True}, {"lookup_cache_static": "x"},
        {"lookup_cache_dynamic": "x", "type": "ngram-simple"},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_values_of_n_grams(wrong):
    with pytest.raises(lc.InvalidArgumentError, match=next(iter(wrong))):
        lc.Ngram(**wrong)


def test_a_wrong_type_of_a_draft_model():
    with pytest.raises(lc.InvalidArgumentError, match=r"type='ngram-mod'.*use one of auto, draft-simple"):
        lc.DraftModel(model="x.gguf", type="ngram-mod")


@pytest.mark.parametrize("way", [lc.Mtp, lc.Ngram, lc.DraftModel])
def test_unknown_names_and_positions_are_refused(way):
    for arguments, options in (((), {"nmax": 3}), ((3,), {})):
        with pytest.raises(TypeError):
            way(*arguments, **options)


@pytest.mark.parametrize("wrong", ["mtp", True, 3, lc.Mtp, {"n_max": 3}, [lc.Mtp()]], ids=str)
def test_what_is_no_way(tiny_path, opened, wrong):
    with pytest.raises(lc.InvalidArgumentError, match="speculative="):
        opened(tiny_path("llama"), wrong)


# what fits


def test_auto(tiny_path, demo_path, exact_path, opened):
    """MTP where the file has the layers and they were loaded, else n-grams; nothing where nothing can be taken back."""
    assert ("draft-mtp",) == types(opened(demo_path, "auto"))
    assert ("draft-mtp",) == types(opened(tiny_path("qwen35", n_nextn=1), "auto"))
    assert ("ngram-mod",) == types(opened(tiny_path("qwen35"), "auto"))
    assert ("ngram-mod",) == types(opened(tiny_path("llama"), "auto"))
    assert ("ngram-mod",) == types(opened(demo_path, "auto", model_params=lc.ModelParams(load_mtp=False)))
    recurrent = opened(tiny_path("mamba"), "auto")
    assert types(recurrent) is None
    assert 5 == len(recurrent.generate([10, 11, 12], max_tokens=5, ignore_eos=True).tokens)
    with lc.Model.load(exact_path) as model:  # it was loaded without them
        assert ("ngram-mod",) == types(opened(model, "auto"))


def test_a_recurrent_target(tiny_path, opened):
    with pytest.raises(lc.UnsupportedError, match=r"takes nothing back.*leave speculative out"):
        opened(tiny_path("mamba"), lc.Ngram())


def test_a_model_without_mtp_layers(tiny_path, opened, exact_path):
    with pytest.raises(lc.UnsupportedError, match=r"has no layers for MTP.*use DraftModel"):
        opened(tiny_path("llama"), lc.Mtp())
    with lc.Model.load(exact_path) as model, pytest.raises(lc.LlamaCoreError):
        opened(model, lc.Mtp())


def test_a_draft_model_of_another_vocabulary(tiny_path, opened, exact_path):
    with pytest.raises(lc.LlamaCoreError, match="vocabular"):
        opened(exact_path, lc.DraftModel(model=tiny_path("llama")))
    with pytest.raises(lc.LlamaCoreError, match="vocabular"):
        opened(tiny_path("llama", n_vocab=400), lc.DraftModel(model=tiny_path("llama", vocab="spm")))


@pytest.mark.parametrize("arch", ["qwen35", "mamba"])
def test_a_draft_model_that_takes_nothing_back(tiny_path, opened, arch):
    with pytest.raises(lc.UnsupportedError, match=r"cannot draft.*attention layers alone"):
        opened(tiny_path("llama", vocab="bpe"), lc.DraftModel(model=tiny_path(arch)))


def test_a_draft_model_that_is_no_model(tiny_path, opened, tmp_path):
    (tmp_path / "text.gguf").write_text("no model")
    for model in (tmp_path / "none.gguf", tmp_path / "text.gguf", tmp_path):
        with pytest.raises(lc.ModelLoadError):
            opened(tiny_path("llama"), lc.DraftModel(model=model))
    with lc.Model.load(tiny_path("llama")) as closed:
        pass
    with pytest.raises(lc.ClosedError):
        opened(tiny_path("llama"), lc.DraftModel(model=closed))
    for encoder in ("bert", "t5"):
        with pytest.raises(lc.LlamaCoreError):
            opened(tiny_path("llama"), lc.DraftModel(model=tiny_path(encoder)))


@pytest.mark.parametrize("kind", ["draft-eagle3", "draft-dflash", "draft-dspark"])
def test_a_draft_model_of_another_kind(opened, exact_path, kind):
    with pytest.raises(lc.LlamaCoreError):
        opened(exact_path, lc.DraftModel(model=demo_draft_path(), type=kind))


def test_files_for_n_grams_that_are_none(tiny_path, opened, tmp_path):
    (tmp_path / "cache").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(lc.LlamaCoreError):
        opened(tiny_path("llama"), lc.Ngram(type="ngram-cache", lookup_cache_static=tmp_path / "none"))
    with pytest.raises(lc.LlamaCoreError):
        opened(tiny_path("llama"), lc.Ngram(type="ngram-cache", lookup_cache_static=tmp_path / "cache"))


def test_an_encoder(tiny_path, opened):
    with pytest.raises(lc.UnsupportedError, match="generates nothing"):
        opened(tiny_path("bert"), lc.Ngram())


def test_drafts_longer_than_a_batch(tiny_path, opened):
    """A batch of eight rows has room for as many drafted tokens as are left beside the texts."""
    llama = opened(tiny_path("llama"), lc.Ngram(type="ngram-simple", n_max=64, size_n=2, adaptive=False),
                   n_batch=8, n_ubatch=8)  # fmt: skip
    texts = [llama.stream(list(range(20, 40)) * 3, max_tokens=50, ignore_eos=True, temperature=0.0) for _ in range(4)]
    with lc.Llama(llama.model, n_ctx=512, n_threads=1) as plain:
        expected = plain.generate(list(range(20, 40)) * 3, max_tokens=50, ignore_eos=True, temperature=0.0).tokens
    assert [expected] * 4 == [text.result().tokens for text in texts]
    assert llama.engine.stats().speculation.drafted > 0


def test_the_model_stays_its_owners(tiny_path, opened):
    """A file is loaded and freed with the engine; a `Model` is left as it was."""
    path = tiny_path("llama")
    with lc.Model.load(path) as draft:
        opened(path, lc.DraftModel(model=draft)).close()
        assert not draft.closed
        second = opened(path, lc.DraftModel(model=draft))
        assert 5 == len(second.generate([10, 11], max_tokens=5, ignore_eos=True).tokens)


# whether it pays


class Steps:
    """Feeds an estimate with steps of which the rates are known."""

    def __init__(self, with_drafts: float, without: float, *, adaptive: bool = True) -> None:
        self.estimate = GainEstimate(adaptive)
        self.rates = {True: with_drafts, False: without}

    def run(self, n_steps: int, n_texts: int = 1) -> list[bool]:
        """Whether each step was one with drafts."""
        way = []
        for _ in range(n_steps):
            way.append(self.estimate.drafting(n_texts))
            self.estimate.note(way[-1], 3 if way[-1] else 1, (3 if way[-1] else 1) / self.rates[way[-1]])
        return way


def test_where_drafts_win():
    """Both ways are looked at, then drafts are made but for a look at the other way now and then."""
    steps = Steps(200, 100)
    way = steps.run(2000)
    assert way[0] and not all(way)
    assert 0.85 < sum(way) / len(way) < 1
    assert steps.estimate.active
    assert steps.estimate.gain == pytest.approx(2.0)


def test_where_drafts_lose():
    """They are left off, and looked at again ever more rarely."""
    steps = Steps(50, 100)
    way = steps.run(20_000)
    assert sum(way[:200]) > 0
    assert sum(way[:1000]) > sum(way[-1000:])
    assert 0 < sum(way) < 400
    assert steps.estimate.gain == pytest.approx(0.5)


def test_switching_back():
    """What lost wins from now on: a look finds out, and it stays."""
    steps = Steps(50, 100)
    steps.run(1000)
    assert not steps.estimate.active
    steps.rates[True] = 300
    steps.run(4000)
    assert sum(steps.run(200)) > 150
    steps.rates[True] = 20
    steps.run(4000)
    assert sum(steps.run(200)) < 50


def test_a_tie_changes_nothing():
    """Two per cent are no reason to change."""
    steps = Steps(101, 100)
    way = steps.run(5000)
    assert 0.8 < max(sum(way), len(way) - sum(way)) / len(way)


def test_the_first_steps_of_a_look_do_not_count():
    """What is slow for a few steps after each change is not slow."""
    steps = Steps(120, 100)
    since = {True: 0, False: 0}
    for _ in range(3000):
        drafted = steps.estimate.drafting(1)
        since[drafted] += 1
        since[not drafted] = 0
        tokens = 3 if drafted else 1
        slow = 10 if drafted and since[drafted] <= 4 else 1
        steps.estimate.note(drafted, tokens, slow * tokens / steps.rates[drafted])
    assert steps.estimate.gain == pytest.approx(1.2)
    assert sum(steps.run(1000)) > 850


def test_each_load_for_itself():
    """One text and eight at a time are measured apart, and so are their answers."""
    steps = Steps(200, 100)
    steps.run(500, 1)
    steps.rates = {True: 50.0, False: 100.0}
    assert sum(steps.run(3000, 8)) < 200
    assert not steps.estimate.active
    steps.rates = {True: 200.0, False: 100.0}
    assert sum(steps.run(100, 1)) > 60
    assert steps.estimate.active


def test_told_to_draft_always():
    steps = Steps(10, 100, adaptive=False)
    assert all(steps.run(1000))
    assert steps.estimate.active


def test_an_estimate_that_knows_nothing():
    estimate = GainEstimate(True)
    assert estimate.gain is None
    assert estimate.active
    estimate.note(True, 1, 0.0)
    assert estimate.drafting(1)
    for _ in range(100):  # a clock that stands still divides nothing by zero
        estimate.note(estimate.drafting(1), 1, 0.0)
