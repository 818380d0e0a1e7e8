"""Texts of two moods, as the demo model was trained on."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tools.stories import draw_story


@pytest.fixture(scope="session")
def stories():
    """A function that draws stories of a mood."""

    def draw(mood: str, count: int, seed: int = 0) -> list[str]:
        rng = random.Random(f"{mood}{seed}")
        return [draw_story(rng, mood).text for _ in range(count)]

    return draw
