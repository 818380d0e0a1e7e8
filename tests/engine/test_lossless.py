"""Speculation changes no text: on the demo model's own prompts every method gives what plain decoding gives."""

from __future__ import annotations

import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import llamacore as lc
from llamacore.hub import demo_draft_path

from .conftest import ask

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from tools.corpus import stream

Texts = list[tuple[int, ...]]
Method = Callable[[], "lc.Mtp | lc.DraftModel | lc.Ngram"]

N_PROMPTS = 200
METHODS: dict[str, Method] = {
    "mtp": lambda: lc.Mtp(adaptive=False),
    "mtp, one token": lambda: lc.Mtp(n_max=1, adaptive=False),
    "mtp, likely ones": lambda: lc.Mtp(n_max=6, p_min=0.6, n_min=2, adaptive=False),
    "mtp, switching": lambda: lc.Mtp(),
    "draft model": lambda: lc.DraftModel(model=demo_draft_path(), adaptive=False),
    "ngram-simple": lambda: lc.Ngram(type="ngram-simple", n_max=4, size_n=3, adaptive=False),
    "ngram-map-k": lambda: lc.Ngram(type="ngram-map-k", n_max=4, size_n=3, adaptive=False),
    "ngram-map-k4v": lambda: lc.Ngram(type="ngram-map-k4v", n_max=4, size_n=3, adaptive=False),
    "ngram-mod": lambda: lc.Ngram(type="ngram-mod", n_max=4, n_match=3, adaptive=False),
    "ngram-cache": lambda: lc.Ngram(type="ngram-cache", n_max=4, adaptive=False),
}
SEVERAL = ("mtp", "draft model", "ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache")
GREEDY = lc.SamplingParams(temperature=0.0)


def opened(path: Path, method: str | None, n_parallel: int = 1) -> lc.Llama:
    return lc.Llama(
        path,
        n_ctx=640 * n_parallel,
        n_parallel=n_parallel,
        n_threads=1,
        flash_attn="disabled",
        speculative=None if method is None else METHODS[method](),
    )


def write(
    llama: lc.Llama, prompts: Sequence[list[int]], length: int, sampling: Sequence[lc.SamplingParams] = (GREEDY,)
) -> Texts:
    """The tokens that follow each prompt, as many at a time as the engine has sequences."""
    chosen = [sampling[number % len(sampling)] for number in range(len(prompts))]
    running = [
        llama.engine.submit(ask(prompt, length, sampling=one, stream=False, cache_prompt=False))
        for prompt, one in zip(prompts, chosen, strict=True)
    ]
    return [generation.result().tokens for generation in running]


@pytest.fixture(scope="module")
def prompts(demo_model) -> list[list[int]]:
    """Beginnings of held-out text of the kinds that the demo model was trained for: stories, chats, lists, tools."""
    rng = random.Random(0)
    found = []
    for text in islice(stream("held-out-lossless"), N_PROMPTS):
        tokens = demo_model.vocab.tokenize(text, parse_special=True)
        found.append(tokens[: min(96, rng.randrange(4, max(5, len(tokens) // 2)))])
    return found


@pytest.fixture(scope="module")
def plain(exact_path, prompts) -> Iterator[Callable[[int], Texts]]:
    """A function that returns the greedy texts without speculation, one at a time."""
    known: dict[int, Texts] = {}
    with opened(exact_path, None) as llama:

        def texts(length: int) -> Texts:
            if length not in known:
                known[length] = write(llama, prompts, length)
            return known[length]

        yield texts


@pytest.fixture
def short(request) -> int:
    """Tokens of a text; more of them when there is time."""
    return 96 if request.config.getoption("--run-slow") else 24


def require_drafts(llama: lc.Llama) -> None:
    """Tokens were drafted, some of them rightly and some wrongly, and nothing went wrong."""
    stats = llama.engine.stats().speculation
    print(stats)
    assert stats.failure is None
    assert 0 < stats.accepted < stats.drafted


@pytest.mark.parametrize("method", ["mtp", "draft model"])
def test_greedy_texts_are_the_same(exact_path, prompts, plain, short, method):
    """200 prompts, one at a time, token for token."""
    with opened(exact_path, method) as llama:
        assert plain(short) == write(llama, prompts, short)
        require_drafts(llama)


@pytest.mark.parametrize("method", SEVERAL)
def test_greedy_texts_are_the_same_side_by_side(exact_path, prompts, plain, short, method):
    """200 prompts, eight at a time with drafts, against one at a time without."""
    with opened(exact_path, method, 8) as llama:
        assert plain(short) == write(llama, prompts, short)
        require_drafts(llama)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_parallel", [1, 3])
def test_long_greedy_texts_are_the_same(exact_path, prompts, plain, method, n_parallel):
    with opened(exact_path, method, n_parallel) as llama:
        assert plain(128) == write(llama, prompts, 128)
        require_drafts(llama)


@pytest.mark.parametrize("n_parallel", [1, 8])
@pytest.mark.parametrize("method", ["mtp", "draft model"])
def test_sampled_texts_are_the_same(exact_path, prompts, short, method, n_parallel):
    """With a seed, a sampler chooses once for each token, so that chance falls as it does without drafts."""
    chosen = [lc.SamplingParams(temperature=0.8, seed=seed) for seed in range(60)]
    with opened(exact_path, None) as llama:
        expected = write(llama, prompts[:60], short, chosen)
        assert expected != write(llama, prompts[:60], short)
    with opened(exact_path, method, n_parallel) as llama:
        assert expected == write(llama, prompts[:60], short, chosen)
        require_drafts(llama)


def test_a_model_that_drafts_for_itself(prompts):
    """A target of attention alone, and the same file as its draft model: every token is accepted."""
    path = demo_draft_path()
    with opened(path, None) as llama:
        expected = write(llama, prompts[:40], 24)
    with opened(path, "draft model", 4) as llama:
        texts = write(llama, prompts[:40], 24)
        stats = llama.engine.stats().speculation
    # weights of 8 bits: a batch of several rows is rounded otherwise, see below
    assert sum(ours == theirs for ours, theirs in zip(texts, expected, strict=True)) >= 36
    assert stats.acceptance > 0.95


# rounding


def logits_in_groups(model: lc.Model, prompt: Sequence[int], tokens: Sequence[int], size: int) -> NDArray[np.float32]:
    """Logits after a prompt and some tokens that are known, computed by the primitives, `size` tokens at a time."""
    with model.context(n_ctx=1024, n_threads=1, flash_attn="disabled", kv_unified=True) as context:
        batch = lc.Batch(512)
        batch.add_tokens(prompt)
        context.decode(batch)
        for start in range(0, len(tokens), size):
            batch.clear()
            batch.add_tokens(tokens[start : start + size], len(prompt) + start)
            context.decode(batch)
        return context.logits(-1)


@pytest.mark.parametrize("method", ["mtp", "draft model"])
def test_where_rounding_decides(demo_path, demo_model, prompts, method, record_property):
    """The bundled file rounds activations to 8 bits, and those of a row alone not as those of several.

    So a few texts differ. At the first difference the primitives, which draft nothing and are given the same tokens,
    are as undecided: computing them two or four at a time moves the two candidates against each other by more than
    what separates them.
    """
    with opened(demo_path, None) as llama:
        expected = write(llama, prompts, 64)
    with opened(demo_path, method) as llama:
        texts = write(llama, prompts, 64)
        require_drafts(llama)
    different, turned, widest = 0, 0, 0.0
    for prompt, before, after in zip(prompts, expected, texts, strict=True):
        if before == after:
            continue
        different += 1
        place = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), None)
        place = min(len(before), len(after)) if place is None else place  # one of them ended there
        alone, *grouped = (logits_in_groups(demo_model, prompt, before[:place], size) for size in (1, 2, 4))
        ends = [token for token in range(demo_model.n_vocab) if demo_model.vocab.is_eog(token)]
        first, second = (
            text[place] if place < len(text) else max(ends, key=lambda token: alone[token]) for text in (before, after)
        )
        gap = float(alone[first] - alone[second])
        moved = max(abs(gap - float(logits[first] - logits[second])) for logits in grouped)
        assert gap < 1e-4 or moved > gap, f"{prompt} parts after {place} tokens"
        turned += any(logits[second] >= logits[first] for logits in grouped)
        widest = max(widest, gap)
    counts = f"{different} of {len(prompts)} texts differ, {turned} of them so without drafts; widest gap {widest:.4f}"
    print(counts)
    record_property("rounding", counts)
    assert different <= len(prompts) // 20
    assert widest < 0.1


# frequencies


def tail(statistic: float, degrees: int) -> float:
    """Probability of a chi-square statistic at least as large: the lower incomplete gamma function as a series."""
    shape, x = degrees / 2, statistic / 2
    term = total = 1.0
    for n in range(1, 10000):
        term *= x / (shape + n)
        total += term
    return 1 - total * math.exp(shape * math.log(x) - x - math.lgamma(shape + 1)) if x > 0 else 1.0


def differing(samples: Sequence[Mapping[int, int]], probability: Mapping[int, float], lost: int) -> float:
    """Probability that chance alone makes samples differ so much from what is expected.

    Args:
        samples: Counts.
        probability: Of each token; those that are rare in the smallest sample count as one.
        lost: Degrees of freedom that the expectation took from the samples.
    """
    least = min(sum(counts.values()) for counts in samples)
    common = [token for token, p in probability.items() if p * least >= 8]
    rest = 1 - sum(probability[token] for token in common)
    statistic = 0.0
    for counts in samples:
        n, seen = sum(counts.values()), sum(counts.get(token, 0) for token in common)
        statistic += sum((counts.get(t, 0) - n * probability[t]) ** 2 / (n * probability[t]) for t in common)
        statistic += (n - seen - n * rest) ** 2 / max(n * rest, 1.0)
    return tail(statistic, len(samples) * len(common) - lost)


def from_probabilities(counts: Counter[int], probability: Mapping[int, float]) -> float:
    return differing([counts], probability, 0)


def from_each_other(one: Counter[int], other: Counter[int]) -> float:
    both = one + other
    probability = {token: count / both.total() for token, count in both.items()}
    least = min(one.total(), other.total())
    return differing([one, other], probability, sum(p * least >= 8 for p in probability.values()))


def test_the_statistic():
    """The tables of the distribution; samples that are alike or not."""
    assert tail(3.841, 1) == pytest.approx(0.05, abs=1e-4)
    assert tail(18.307, 10) == pytest.approx(0.05, abs=1e-4)
    assert tail(135.807, 100) == pytest.approx(0.01, abs=1e-4)
    rng = np.random.default_rng(0)
    draws = [Counter[int](rng.binomial(20, p, 20_000).tolist()) for p in (0.5, 0.5, 0.51)]
    exact = {k: math.comb(20, k) / 2**20 for k in range(21)}
    assert from_probabilities(draws[0], exact) > 0.01 > from_probabilities(draws[2], exact)
    assert from_each_other(*draws[:2]) > 0.01 > from_each_other(*draws[1:])


PLACE = "Jonas is a dog"
FIRST = "."


@pytest.fixture(scope="module")
def probabilities(exact_path) -> Callable[[float], dict[int, float]]:
    """A function that returns the probabilities of what follows `PLACE` and `FIRST`, at a temperature."""
    with lc.Model.load(exact_path) as model:
        logits = logits_in_groups(model, model.vocab.tokenize(PLACE + FIRST), (), 1).astype(np.float64)

    def at(temperature: float) -> dict[int, float]:
        weights = np.exp((logits - logits.max()) / temperature)
        return dict(enumerate(weights / weights.sum()))

    return at


def test_frequencies_of_a_row(exact_path, probabilities):
    """20,000 choices from a row whose draft is right for some: the token after it follows the model's probabilities."""
    from llamacore.core.sample_rows import RowSampler

    with lc.Model.load(exact_path) as model:
        prompt = model.vocab.tokenize(PLACE + FIRST)
        likely = sorted(probabilities(0.8).items(), key=lambda item: -item[1])[0][0]
        with model.context(n_ctx=64, n_threads=1, flash_attn="disabled", n_rs_seq=2) as context:
            batch = lc.Batch(64)
            batch.add_tokens([*prompt, likely], outputs="all")
            context.decode(batch)
            rows, accepted, counts = RowSampler(1, 1), 0, Counter[int]()
            with lc.Sampler.chain(lc.Sampler.temp(0.8), lc.Sampler.dist(seed=1)) as sampler:
                for _ in range(20_000):
                    [chosen] = rows.sample_drafts(context, [len(prompt) - 1], [sampler], [[likely]])
                    counts[chosen[0]] += 1
                    accepted += len(chosen) == 2
    assert counts[likely] == accepted
    assert from_probabilities(counts, probabilities(0.8)) > 0.01
    assert from_probabilities(counts, probabilities(0.85)) < 1e-6


@pytest.mark.parametrize("n_draws", [1000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_frequencies_of_texts(exact_path, probabilities, n_draws):
    """The second token of texts that are all begun alike, once with drafts and once without, other seeds each time."""
    counts: dict[str | None, Counter[int]] = {}
    for number, method in enumerate((None, "mtp")):
        with opened(exact_path, method, 8) as llama:
            prompt = llama.tokenize(PLACE)
            [first] = llama.tokenize(FIRST, add_special=False)
            counts[method] = Counter[int]()
            running: list[lc.Generation] = []
            for draw in range(n_draws * 5 // 4):  # of which nearly all begin so
                seed = number * 10_000_000 + draw
                free = lc.SamplingParams(temperature=0.8, seed=seed, top_k=0, top_p=1.0, min_p=0.0)
                running.append(llama.engine.submit(ask(prompt, 3, sampling=free, stream=False, special=True)))
                if len(running) == 128:
                    counts[method].update(seconds(running, first))
                    running = []
            counts[method].update(seconds(running, first))
            if method is not None:
                require_drafts(llama)
    with_drafts, without = counts["mtp"], counts[None]
    assert min(with_drafts.total(), without.total()) >= n_draws
    print({name: (found.total(), len(found)) for name, found in counts.items()})
    assert from_probabilities(with_drafts, probabilities(0.8)) > 0.01
    assert from_probabilities(without, probabilities(0.8)) > 0.01
    assert from_each_other(with_drafts, without) > 0.01


def seconds(running: Sequence[lc.Generation], first: int) -> Iterator[int]:
    for generation in running:
        tokens = generation.result().tokens
        if tokens[0] == first:
            yield tokens[1]
