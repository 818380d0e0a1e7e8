"""Control vectors made from texts and from activations, and what they are worth."""

from __future__ import annotations

import math

import numpy as np
import pytest

import llamacore as lc
from llamacore.steering import capture_activations, fit_control_vector, fit_labelled, train_control_vector

RNG = np.random.default_rng(0)
AXIS = np.zeros(24, np.float32)
AXIS[5] = 3.0
COMMON = RNG.normal(size=(200, 24)).astype(np.float32) * 4


def noise(n, size=1.0):
    return RNG.normal(size=(n, 24)).astype(np.float32) * size


@pytest.mark.parametrize("method", ["mean", "pca"])
@pytest.mark.parametrize("paired", [True, False])
def test_a_direction_that_is_there_is_found(method, paired):
    """It points from the negative to the positive set and is as long as they are apart."""
    n = 200 if paired else 150
    positive = {2: COMMON[:200] * paired + noise(200) + AXIS}
    negative = {2: COMMON[:n] * paired + noise(n) - AXIS}
    trained = fit_control_vector(positive, negative, method=method)
    found = trained.vector.directions[2]
    assert found @ AXIS / np.linalg.norm(found) / 3 > 0.93
    assert math.isclose(np.linalg.norm(found), 6, rel_tol=0.15)
    quality = trained.quality[2]
    assert quality.n_held_out == (100 if paired else 88)
    assert (quality.pair_accuracy is None) != paired
    if paired:
        assert quality.pair_accuracy == 1.0 and quality.accuracy > 0.7
    else:
        assert quality.accuracy > 0.98 and quality.separation > 4
    assert trained.best_layer == 2 and trained.method == method


def test_a_direction_that_is_not_there_is_worth_nothing():
    """Held-out rows of two alike sets are told apart no better than by chance."""
    trained = fit_control_vector({1: noise(400)}, {1: noise(400)})
    assert 0.4 < trained.quality[1].accuracy < 0.6 and abs(trained.quality[1].separation) < 0.5


def test_labels_and_what_is_held_out():
    """One label against all others; with nothing held out nothing is said of the quality."""
    labels = ["a", "b", "c"] * 60
    values = noise(180) + np.array([AXIS * (label == "b") for label in labels])
    trained = fit_labelled({1: values, 4: noise(180)}, labels, "b", held_out=0.2, model_hint="llama")
    assert (trained.n_positive, trained.n_negative) == (48, 96)
    assert trained.vector.layers == (1, 4) and trained.vector.model_hint == "llama"
    assert trained.best_layer == 1 and trained.quality[1].accuracy > 0.8
    trained = fit_labelled({1: values}, labels, "b", held_out=0)
    assert trained.quality == {} and trained.best_layer is None and trained.n_positive == 60


def test_the_same_seed_gives_the_same_vector():
    """And another one holds out other rows."""
    kinds = {1: noise(20) + AXIS}, {1: noise(20)}
    one, two, three = (fit_control_vector(*kinds, seed=seed).vector.directions[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, three)


@pytest.mark.parametrize("method", ["mean", "pca"])
def test_the_moods_of_the_demo_model(demo_model, stories, method):
    """Sad and happy stories that it never saw are told apart in its middle layers, and steering moves along them."""
    happy, sad = stories("happy", 60), stories("sad", 60)
    trained = train_control_vector(demo_model, happy, sad, method=method, n_threads=1)
    assert trained.vector.layers == tuple(range(1, demo_model.n_layer - 1))
    assert trained.vector.model_hint == demo_model.arch
    best = trained.quality[trained.best_layer]
    assert best.accuracy >= 0.9 and best.separation > 2
    fresh = [
        capture_activations(demo_model, stories(mood, 20, seed=1), [trained.best_layer], rows="mean", n_threads=1)
        for mood in ("happy", "sad")
    ]
    axis = trained.vector.directions[trained.best_layer]
    projected = [found.values[trained.best_layer] @ axis for found in fresh]
    threshold = (projected[0].mean() + projected[1].mean()) / 2
    assert (projected[0] > threshold).mean() >= 0.85 and (projected[1] < threshold).mean() >= 0.85


def test_wrong_arguments_are_named(tiny):
    """Too few, unequal, unknown, not finite."""
    model = tiny("llama", n_layer=4)
    good = {1: noise(5)}
    for call in (
        lambda: train_control_vector(model, ["a"], ["b"]),
        lambda: train_control_vector(model, ["a", "b"], ["c", "d"], layers=[0]),
        lambda: train_control_vector(model, ["a", "b"], ["c", "d"], layers=[]),
        lambda: train_control_vector(model, ["a", "b"], ["c", "d"], rows="all"),
        lambda: train_control_vector(model, ["a", "b"], ["c", "d"], method="magic"),
        lambda: train_control_vector(model, ["a", "b"], ["c", "d"], held_out=1.0),
        lambda: fit_control_vector({}, {}),
        lambda: fit_control_vector(good, {2: noise(5)}),
        lambda: fit_control_vector(good, {1: noise(5)[:, :9]}),
        lambda: fit_control_vector(good, {1: noise(5) * np.nan}),
        lambda: fit_control_vector({1: noise(5), 2: noise(6)}, {1: noise(5), 2: noise(6)}),
        lambda: fit_control_vector(good, {1: noise(5)[0]}),
        lambda: fit_labelled(good, ["a"] * 4, "a"),
        lambda: fit_labelled(good, ["a"] * 5, "a"),
        lambda: fit_control_vector(good, good, seed=-1),
    ):
        with pytest.raises(lc.InvalidArgumentError):
            call()
    with pytest.raises(lc.OutOfRangeError):
        train_control_vector(model, ["a", "b"], ["c", "d"], layers=[4])
