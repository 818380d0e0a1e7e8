"""What steering does to the stories of the demo model, see docs/steering.md: mood and perplexity by coefficient.

python benchmarks/steering.py [--json] [--check] [--stories N] [--plot FILE.svg]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from moods import MOODS, MoodClassifier, stories

import llamacore as lc
from llamacore.core.control_vector import ControlVector
from llamacore.steering import train_control_vector

PROMPT = "Once upon a time"
LAYERS = (1, 2)
COEFFICIENTS = (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0)
USED = 1.5  # the coefficient of the figures
COLORS = ("#e69f00", "#0072b2", "#d55e00", "#009e73", "#8855aa")  # told apart by most people
CHECKED = ("happy", "sad")
MOST_PERPLEXITY = 1.3
LEAST_EFFECT = 0.4  # Cohen's h; 0.5 is a medium effect, and the chance of 200 stories is 0.1


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Mood and perplexity of steered stories.")
    parser.add_argument("--stories", type=int, default=200, help="of each point (default: %(default)s)")
    parser.add_argument("--moods", nargs="+", choices=MOODS, default=list(MOODS), help="moods to steer to")
    parser.add_argument("--coefficients", nargs="+", type=float, default=list(COEFFICIENTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot", help="draw the scores into this SVG file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="fail when steering has less effect than promised")
    return parser.parse_args()


def vector_of(model: lc.Model, mood: str) -> tuple[ControlVector, dict[int, float]]:
    """A vector towards a mood, away from the others, and the accuracy of its layers on held-out stories."""
    others = [text for other in MOODS if other != mood for text in stories(other, 50, 1)]
    trained = train_control_vector(model, stories(mood, 200, 1), others, layers=LAYERS, n_threads=1)
    return trained.vector, {layer: found.accuracy for layer, found in trained.quality.items()}


def written(llama: lc.Llama, count: int, steering: Mapping[ControlVector, float]) -> list[str]:
    """Stories of the model, the same seeds each time."""
    running = [
        llama.stream(PROMPT, max_tokens=220, temperature=0.8, seed=seed, steering=steering) for seed in range(count)
    ]
    return [PROMPT + generation.result().text for generation in running]


def perplexity(llama: lc.Llama, texts: Sequence[str]) -> float:
    """Perplexity of all tokens of the texts for the model as it is, not steered."""
    scores = [llama.score(text) for text in texts]
    return math.exp(-sum(score.total_logprob for score in scores) / sum(score.n_logprobs for score in scores))


def effect(share: float, before: float) -> float:
    """Cohen's h of two shares: 0.2 is a small, 0.5 a medium, 0.8 a large effect."""
    return 2 * math.asin(math.sqrt(share)) - 2 * math.asin(math.sqrt(before))


def unchanged(vector: ControlVector) -> bool:
    """Whether a coefficient of 0 leaves stories as they are, one at a time: what shares a batch changes rounding."""
    with lc.Llama(taps=True, n_parallel=1, n_threads=1, n_ctx=512) as llama:
        texts = [
            [
                llama.generate(PROMPT, max_tokens=220, seed=seed, steering=steering, cache_prompt=False).text
                for seed in range(10)
            ]
            for steering in ({}, {vector: 0.0})
        ]
    return texts[0] == texts[1]


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All points."""
    classifier = MoodClassifier()
    report: dict[str, Any] = {
        "classifier_accuracy": classifier.accuracy, "stories": arguments.stories, "layers": LAYERS, "moods": {}
    }  # fmt: skip
    with lc.Llama(taps=True, n_parallel=8, n_threads=arguments.threads, n_ctx=8 * 512) as llama:
        plain = written(llama, arguments.stories, {})
        scores, base = classifier.scores(plain), perplexity(llama, plain)
        report["plain_shares"] = [float(np.mean(scores.argmax(1) == column)) for column in range(len(MOODS))]
        for mood in arguments.moods:
            column = MOODS.index(mood)
            vector, accuracy = vector_of(llama.model, mood)
            points = []
            for coefficient in arguments.coefficients:
                texts = written(llama, arguments.stories, {vector: coefficient})
                found = classifier.scores(texts)
                share = float(np.mean(found.argmax(1) == column))
                points.append({
                    "coefficient": coefficient, "score": float(found[:, column].mean()), "share": share,
                    "effect": effect(share, report["plain_shares"][column]),
                    "perplexity_ratio": perplexity(llama, texts) / base,
                })  # fmt: skip
                if not arguments.json:
                    print(_line(mood, points[-1]), flush=True)
            report["moods"][mood] = {
                "unchanged": unchanged(vector),
                "held_out_accuracy": accuracy,
                "norm": vector.delta_norm,
                "points": points,
            }
        report["perplexity"] = base
    return report


def _line(mood: str, point: Mapping[str, float]) -> str:
    return (
        f"{mood:7} {point['coefficient']:5.2f}  score {point['score']:.3f}  share {point['share']:.3f}  "
        f"effect {point['effect']:5.2f}  perplexity x {point['perplexity_ratio']:.2f}"
    )


def shortcomings(report: Mapping[str, Any]) -> list[str]:
    """What is not as promised."""
    wrong = []
    for mood in CHECKED:
        points = {point["coefficient"]: point for point in report["moods"][mood]["points"]}
        if not report["moods"][mood]["unchanged"]:
            wrong.append(f"{mood}: coefficient 0 changes the stories")
        if points[USED]["effect"] < LEAST_EFFECT:
            wrong.append(f"{mood}: an effect of {points[USED]['effect']:.2f} at {USED}")
        if points[USED]["perplexity_ratio"] > MOST_PERPLEXITY:
            wrong.append(f"{mood}: perplexity is {points[USED]['perplexity_ratio']:.2f} times as high at {USED}")
    return wrong


def plot(report: Mapping[str, Any], path: str) -> None:
    """Draw the score of each mood, and the perplexity below it, as an SVG file that needs no fonts of its own."""
    found = {mood: item["points"] for mood, item in report["moods"].items()}
    x = sorted({point["coefficient"] for points in found.values() for point in points})
    top = max(point["perplexity_ratio"] for points in found.values() for point in points) * 1.1

    def across(value: float) -> float:
        return 50 + 360 * (value - x[0]) / (x[-1] - x[0])

    ratios = [ratio for ratio in (1, MOST_PERPLEXITY, 2, 4, 8, 16) if ratio < top]
    panels = (
        ("score of the mood steered to", "score", [0, 0.25, 0.5, 0.75, 1], lambda v: 220 - 200 * v),
        ("perplexity, times", "perplexity_ratio", ratios, lambda v: 350 - 80 * math.log(v) / math.log(top)),
    )
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 500 400" font-family="sans-serif" font-size="11">',
        '<rect width="500" height="400" fill="#fff"/>',
    ]
    for title, key, ticks, up in panels:
        lines.append(f'<text x="50" y="{up(ticks[-1]) - 8:.0f}">{title}</text>')
        for tick in ticks:
            lines.append(f'<path d="M50 {up(tick):.1f}H410" stroke="#ddd"/>')
            lines.append(f'<text x="44" y="{up(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
        for color, points in zip(COLORS, found.values(), strict=False):
            path_of = " ".join(f"{across(p['coefficient']):.1f},{up(p[key]):.1f}" for p in points)
            lines.append(f'<polyline points="{path_of}" fill="none" stroke="{color}" stroke-width="2"/>')
    for number, (color, mood) in enumerate(zip(COLORS, found, strict=False)):
        lines.append(f'<path d="M422 {40 + 18 * number}h16" stroke="{color}" stroke-width="2"/>')
        lines.append(f'<text x="444" y="{44 + 18 * number}">{mood}</text>')
    lines += [f'<text x="{across(value):.1f}" y="368" text-anchor="middle">{value:g}</text>' for value in x]
    lines += ['<text x="230" y="388" text-anchor="middle">coefficient</text>', "</svg>"]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Measure, report, draw."""
    arguments = parse_arguments()
    report = measure(arguments)
    if arguments.plot:
        plot(report, arguments.plot)
    if arguments.json:
        print(json.dumps(report))
    else:
        shares = ", ".join(f"{mood} {share:.1%}" for mood, share in zip(MOODS, report["plain_shares"], strict=True))
        print(f"not steered: {shares}; perplexity {report['perplexity']:.2f}")
        print(f"the classifier is right on {report['classifier_accuracy']:.1%} of held-out stories")
    if arguments.check and (wrong := shortcomings(report)):
        raise SystemExit("; ".join(wrong))


if __name__ == "__main__":
    main()
