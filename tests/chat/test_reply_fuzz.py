"""Damaged replies: none ends the process, none raises, and what was told adds up to the message."""

from __future__ import annotations

import random
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chat_cases import CASES, Case

COUNT = 2000
PER_PROCESS = 500


def damaged(case: Case, rng: random.Random) -> str:
    """A reply that a few things have happened to."""
    text = case.text
    for _ in range(rng.randint(1, 4)):
        other = rng.choice(CASES).text
        marks = re.findall(r"<[^<>\n]{0,30}>|\[[A-Z_/]+\]|[{}\[\]\"]", text + other) or ["<tool_call>"]
        start = rng.randrange(len(text) + 1)
        end = min(len(text), start + rng.randrange(40))
        pick = rng.randrange(9)
        if pick == 0:
            text = text[:start]
        elif pick == 1:
            raw = bytearray(text.encode("utf-8", "surrogatepass"))
            for _ in range(rng.randint(1, 5)):
                if raw:
                    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
            text = raw.decode("utf-8", "surrogateescape")
        elif pick == 2:
            text = text[:start] + text[end:]
        elif pick == 3:
            text = text[:start] + text[start:end] * rng.choice((2, 3, 50)) + text[end:]
        elif pick == 4:
            text = text[:start] + rng.choice(marks) * rng.choice((1, 1, 2, 200)) + text[start:]
        elif pick == 5:
            text = text[:start] + other[rng.randrange(len(other)) :] + text[start:]
        elif pick == 6:
            text = text + rng.choice(marks) + other
        elif pick == 7:
            inserted = "".join(chr(rng.choice((0, 9, 10, 34, 39, 60, 92, 0xFFFD, 0x1F600, 0x7F))) for _ in range(5))
            text = text[:start] + inserted + text[start:]
        else:
            text = text[end:]
    return text[:20_000]


def run(source: Path, first: int, count: int) -> None:
    """Read `count` damaged replies; the number of the one that is read is printed before it is."""
    from test_reply import joined

    from llamacore.chat.reply import ReplyParser

    parsers = [case.parser(source) for case in CASES]
    slowest = 0.0
    for number in range(first, first + count):
        rng = random.Random(number)
        index = rng.randrange(len(CASES))
        text = damaged(CASES[index], rng)
        print(number, CASES[index].template, flush=True)
        reply = ReplyParser(parsers[index].reply())
        size = rng.choice((1, 2, 5, 17, 400)) if len(text) < 2000 else rng.choice((50, 400))
        deltas = []
        started = time.perf_counter()
        for start in range(0, len(text), size):
            deltas += reply.push(text[start : start + size])
        message = reply.finish()
        slowest = max(slowest, time.perf_counter() - started)
        told = joined(deltas + reply.last_deltas)
        assert [(c.id, c.name, c.arguments) for c in told.tool_calls] == [
            (c.id, c.name, c.arguments) for c in message.tool_calls
        ], (number, text, told, message)
        assert (told.content or "") == (message.content or ""), (number, text, told, message)
        assert (told.reasoning_content or "").strip() == (message.reasoning_content or "").strip(), (number, text)
    print("slowest", slowest)


@pytest.mark.parametrize("first", range(0, COUNT, PER_PROCESS))
def test_damaged_replies(first: int, upstream_source: Path, run_child: Callable[..., str]) -> None:
    code = f"""
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_reply_fuzz import run
        run(Path(sys.argv[1]), {first}, {PER_PROCESS})
    """
    lines = run_child(code, upstream_source, timeout=600).splitlines()
    assert len(lines) == PER_PROCESS + 1
    assert float(lines[-1].split()[1]) < 20


def test_damage_is_the_same_every_time() -> None:
    def make() -> list[str]:
        return [damaged(CASES[number % len(CASES)], random.Random(number)) for number in range(200)]

    first = make()
    assert first == make()
    assert len(set(first)) > 150
    assert sum(a == b.text for a, b in zip(first, CASES * 20, strict=False)) < 20


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
