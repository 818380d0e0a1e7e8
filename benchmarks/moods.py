"""Stories of the demo model's training grammar, and a classifier of their moods that is made from them."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1]))

from tools.stories import MOODS, draw_story

__all__ = ["MOODS", "MoodClassifier", "stories"]


def stories(mood: str, count: int, seed: int) -> list[str]:
    """Draw stories of a mood."""
    rng = random.Random(f"{mood} {seed}")
    return [draw_story(rng, mood).text for _ in range(count)]


class MoodClassifier:
    """Naive Bayes over the words of stories.

    Args:
        count: Stories of each mood to learn from; half as many more are held out.
        seed: Of the stories.

    Attributes:
        accuracy: Share of the held-out stories that it gets right.
    """

    def __init__(self, count: int = 400, seed: int = 77) -> None:
        drawn = {mood: stories(mood, count + count // 2, seed) for mood in MOODS}
        known = sorted({word for texts in drawn.values() for text in texts[:count] for word in _words(text)})
        self._number = {word: number for number, word in enumerate(known)}
        seen = np.full((len(MOODS), len(known)), 0.5)
        for row, mood in zip(seen, MOODS, strict=True):
            for text in drawn[mood][:count]:
                np.add.at(row, [self._number[word] for word in _words(text)], 1)
        self._log = np.log(seen / seen.sum(1, keepdims=True))
        held_out = [(mood, text) for mood in MOODS for text in drawn[mood][count:]]
        self.accuracy = float(np.mean([MOODS[self.scores([text])[0].argmax()] == mood for mood, text in held_out]))

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probability of each mood, [texts, moods]; all moods alike where no word is known."""
        sums = np.array([
            self._log[:, [self._number[word] for word in _words(text) if word in self._number]].sum(1) for text in texts
        ])  # fmt: skip
        likely = np.exp(sums - sums.max(1, keepdims=True))
        return np.asarray(likely / likely.sum(1, keepdims=True))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())
