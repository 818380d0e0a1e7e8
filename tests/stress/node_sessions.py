"""Eight sessions at once on one GenerationNode, interrupted at random moments: no crossed text, no stall, one sentinel.

python tests/stress/node_sessions.py SECONDS [SEED]

A grammar gives each session a word of its own, and the model writes nothing else in it: text of another session would
show at once, in the envelopes and in the history.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import random
import sys
import time
from collections.abc import Mapping
from typing import Any

from llamacore.nodes import ControlMessage, Json, Text
from llamacore.nodes.generation import GenerationNode
from llamacore.nodes.ports import aux

N_SESSIONS = 8
STALL_SECONDS = 120.0
WORDS = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen")
PARAMS = {
    "model_path": "demo", "context_size": 2048, "max_tokens": 60, "n_parallel": 4, "backend": {"threads": 1},
    "tools": ["perform_motion"], "history_turns": 3,
}  # fmt: skip


class WordNode(GenerationNode):
    """The real node, whose sessions have a word each; "alone" is that of no session."""

    def generation_options(self, session_id: str) -> Mapping[str, Any]:
        word = session_id or "alone"
        motion = '"<tool_call>{\\"name\\": \\"perform_motion\\", \\"arguments\\": {\\"prompt\\": \\"' + word
        middle = random.choice(("move", "think", '""'))
        rule = f'root ::= (" {word}"){{1,4}} {middle} (" {word}" | think | move){{0,12}}\n'
        rule += f'think ::= "<think> {word}</think>"\n'
        free = {"grammar_lazy": False, "grammar_triggers": (), "grammar_type": "user"}
        tags = {"reasoning_budget_start_tag": "", "reasoning_budget_end_tags": ()}
        return {"grammar": rule + f'move ::= {motion}\\"}}}}</tool_call>"\n', **free, **tags}


class Soak:
    """The node, and what became of its turns."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.ends = time.monotonic() + seconds
        self.node = WordNode(PARAMS)
        self.seed = seed
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.last = time.monotonic()
        self.failures: list[str] = []

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.ends or bool(self.failures)

    def expect(self, holds: bool, what: str) -> None:
        if not holds:
            self.failures.append(what)

    async def turn(self, rng: random.Random, session: str | None) -> None:
        """One turn, read to its end, left on the way, or read slowly."""
        word, leaves = session or "alone", rng.random() < 0.05
        found: list[Any] = []
        stream = self.node.stream(Text(rng.choice(("Hello.", "Tell me a happy story.", "a b c " * 60))), session)
        async with contextlib.aclosing(stream):
            async for envelope in stream:
                found.append(envelope)
                self.last = time.monotonic()
                if rng.random() < 0.02:
                    await asyncio.sleep(rng.choice((0, 0.01, 0.05)))
                if leaves and len(found) > 3:
                    self.outcomes["left"] += 1
                    return
        ends = [envelope for envelope in found if isinstance(envelope, Text) and envelope.is_end]
        self.expect(len(ends) == 1 and found[-1] is ends[0], f"{word}: {len(ends)} sentinels in {found}")
        text = "".join(envelope.text for envelope in found if isinstance(envelope, Text) and not envelope.is_end)
        rest = text.replace(f" {word}", "")
        self.expect(f" {word}".startswith(rest), f"{word}: {text!r}")  # the last one may be cut off
        for envelope in found:
            if isinstance(envelope, Json):
                self.expect(envelope.value == {"kind": "motion_intent", "prompt": word}, f"{word}: {envelope}")
                self.outcomes["motions"] += 1
        self.outcomes["turns"] += 1
        self.outcomes["empty turns"] += not text

    async def talk(self, number: int) -> None:
        """A session, with some turns without one, and resets in between."""
        rng, session = random.Random(self.seed * 1000 + number), WORDS[number]
        while not self.over:
            await self.turn(rng, session if rng.random() < 0.9 else None)
            said = self.node.session(session).conversation.messages
            texts = " ".join(message.text for message in said if message.role == "assistant")
            crossed = [word for word in (*WORDS, "alone") if word != session and word in texts]
            self.expect(not crossed, f"{session}: {texts!r}")
            if rng.random() < 0.05:
                await self.node.process_control_message(aux("reset"), session)
            if rng.random() < 0.03:
                await self.node.end_session(session)

    async def interrupt(self) -> None:
        """Barge in, at random moments, on random sessions."""
        rng = random.Random(self.seed)
        while not self.over:
            await asyncio.sleep(rng.expovariate(12))
            message = aux("barge_in") if rng.random() < 0.8 else ControlMessage("CancelSpeculation")
            session = rng.choice((*WORDS, None))
            if self.node.gate(session or "").is_protected:
                self.outcomes["interruptions held off"] += 1
            await self.node.process_control_message(message, session)
            self.outcomes["interruptions"] += 1

    async def watch(self) -> None:
        """Notice when nothing moves any more."""
        while not self.over:
            await asyncio.sleep(0.5)
            self.expect(time.monotonic() - self.last < STALL_SECONDS, f"nothing moves: {self.node._running}")

    async def run(self) -> int:
        await self.node.initialize()
        tasks = [self.talk(number) for number in range(N_SESSIONS)] + [self.interrupt(), self.watch()]
        try:
            await asyncio.gather(*tasks)
        finally:
            await self.node.cleanup()
        self.expect(self.outcomes["turns"] > 8, "hardly any turns")
        print(dict(sorted(self.outcomes.items())))
        print("\n".join(self.failures[:5]) or "all is well")
        return bool(self.failures)


if __name__ == "__main__":
    logging.getLogger("llamacore").setLevel(logging.ERROR)
    given = sys.argv[1:]
    sys.exit(asyncio.run(Soak(float(given[0]), int(given[1]) if len(given) > 1 else 0).run()))
