"""Random requests to one engine for a given time, from threads and an event loop: no leak, no stall, no lost handle.

python tests/stress/soak.py SECONDS [SEED [mtp | draft | ngram]]
"""

from __future__ import annotations

import asyncio
import collections
import gc
import os
import random
import sys
import threading
import time

from process_memory import resident

import llamacore as lc
from llamacore.hub import demo_draft_path

WAYS = {
    "mtp": lambda: lc.Mtp(),
    "draft": lambda: lc.DraftModel(model=demo_draft_path(), adaptive=False),
    "ngram": lambda: lc.Ngram(type="ngram-simple", size_n=2, adaptive=False),
}
WORDS = ("story", "dog", "cat", "happy", "sad", "king", "garden", "wolf", "river", "once upon a time", "the", "of")
GRAMMARS = ('root ::= "yes" | "no"', "root ::= [a-z ]+", 'root ::= "{" [a-z]* "}"')
N_THREADS = 6
N_TASKS = 6
STALL_SECONDS = 60.0
GROWTH = 1.05  # of the resident memory after the first tenth of the time
FILLING_MIB = 24  # what caches still take after that when the time is short
SHORT_SECONDS = 600


class Soak:
    """The engine, and what became of every request."""

    def __init__(self, seconds: float, seed: int, way: str | None = None) -> None:
        self.seconds = seconds
        self.events: collections.Counter[str] = collections.Counter()
        params = lc.EngineParams(max_queue=24, cache_bytes=8 * 2**20, on_event=lambda e: self.note_event(e.kind))
        speculative = None if way is None else WAYS[way]()
        self.llama = lc.Llama(n_ctx=1200, n_parallel=4, n_threads=1, engine_params=params, speculative=speculative)
        self.ends = time.monotonic() + seconds
        self.seed = seed
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.lock = threading.Lock()
        self.last = time.monotonic()
        self.failures: list[str] = []

    def note_event(self, kind: str) -> None:
        self.events[kind] += 1

    def note(self, outcome: str) -> None:
        with self.lock:
            self.outcomes[outcome] += 1
            self.last = time.monotonic()

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.ends or bool(self.failures)

    def submit(self, rng: random.Random) -> lc.Generation | None:
        """A random request; None when it was refused, as it should be."""
        prompt = " ".join(rng.choices(WORDS, k=rng.choice((2, 5, 40, 200))))
        if rng.random() < 0.3:
            prompt = "A shared beginning of several texts. " * rng.choice((1, 20)) + prompt
        options = {
            "max_tokens": rng.choice((0, 1, 5, 40, 200, None)),
            "temperature": rng.choice((0.0, 0.8, 5.0)),
            "n": rng.choice((1, 1, 1, 2, 4)),
            "priority": rng.choice((0, 0, 1, -1)),
            "deadline": rng.choice((None, None, 0.0, 0.02, 1.0)),
            "time_limit": rng.choice((None, None, 0.01, 0.2)),
            "overflow": rng.choice(("stop", "error", "shift")),
            "ignore_eos": rng.random() < 0.3,
            "cache_prompt": rng.random() < 0.9,
            "logprobs": rng.choice((None, None, 2)),
            "stop": rng.choice(((), (), ("a",), ("the",))),
            "min_tokens": 0,
            "draft_max": rng.choice((None, None, 0, 1)),
        }
        if rng.random() < 0.1:
            options["grammar"] = rng.choice(GRAMMARS)
        try:
            return self.llama.stream(prompt, **options)
        except lc.QueueFullError:
            self.note("refused: queue")
        except lc.ContextFullError:
            self.note("refused: too long")
        return None

    def check(self, generation: lc.Generation, chunks: list[lc.Chunk] | None) -> None:
        """The end of a handle: its results agree with its chunks."""
        try:
            results = generation.results(STALL_SECONDS)
        except (lc.ContextFullError, lc.NoKvSlotError, lc.SamplingError) as error:
            self.note(type(error).__name__)
            return
        for result in results:
            if chunks is not None:
                mine = [chunk for chunk in chunks if chunk.index == result.index]
                assert "".join(chunk.text for chunk in mine) == result.text
                assert [chunk.finish_reason for chunk in mine].count(result.finish_reason) == 1
                assert tuple(token for chunk in mine for token in chunk.tokens) == result.tokens
            self.note(result.finish_reason)

    def use(self, generation: lc.Generation, rng: random.Random) -> None:
        """Read it, or half of it, cancel it, drop it, or close it."""
        how = rng.random()
        if how < 0.5:
            chunks = []
            try:
                chunks += generation
            except lc.LlamaCoreError:
                chunks = None
            self.check(generation, chunks)
        elif how < 0.7:
            self.check(generation, None)
        elif how < 0.85:
            time.sleep(rng.random() * 0.05)
            generation.cancel()
            self.check(generation, None)
        elif how < 0.95:
            self.note("dropped")
        else:
            generation.close()
            try:
                generation.result()
                self.note("closed after its end")
            except lc.LlamaCoreError:
                self.note("closed")

    def thread(self, number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        try:
            while not self.over:
                generation = self.submit(rng)
                if generation is None:
                    time.sleep(0.005)
                else:
                    self.use(generation, rng)
        except BaseException as error:
            self.failures.append(f"thread {number}: {type(error).__name__}: {error}")

    async def task(self, number: int) -> None:
        rng = random.Random(f"{self.seed} task {number}")
        try:
            while not self.over:
                generation = self.submit(rng)
                if generation is None:
                    await asyncio.sleep(0.005)
                    continue
                if rng.random() < 0.3:
                    waiting = asyncio.ensure_future(generation.aresult())
                    await asyncio.sleep(rng.random() * 0.02)
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
                    self.note("task cancelled")
                    continue
                chunks: list[lc.Chunk] | None = []
                try:
                    async for chunk in generation:
                        chunks.append(chunk)
                except lc.LlamaCoreError:
                    chunks = None
                self.check(generation, chunks)
        except BaseException as error:
            self.failures.append(f"task {number}: {type(error).__name__}: {error}")

    def watch(self) -> tuple[float, float]:
        """Wait for the end; resident memory after a tenth of the time and at the end."""
        begun, total = time.monotonic(), self.ends - time.monotonic()
        early = 0.0
        while not self.over:
            time.sleep(0.2)
            if time.monotonic() - self.last > STALL_SECONDS:
                self.failures.append(f"nothing ended for {STALL_SECONDS} seconds: {self.llama.engine.stats()}")
            if os.environ.get("SOAK_TRACE") and int(time.monotonic() * 5) % 150 == 0:
                print(f"{time.monotonic() - begun:.0f} s: {resident():.1f} MiB", flush=True)
            if not early and time.monotonic() - begun > total / 10:
                early = resident()
        return early or resident(), resident()

    async def tasks(self) -> None:
        await asyncio.gather(*(self.task(number) for number in range(N_TASKS)))

    def run(self) -> None:
        workers = [threading.Thread(target=self.thread, args=(number,)) for number in range(N_THREADS)]
        workers.append(threading.Thread(target=lambda: asyncio.run(self.tasks())))
        for worker in workers:
            worker.start()
        early, late = self.watch()
        for worker in workers:
            worker.join(2 * STALL_SECONDS)
            assert not worker.is_alive(), "a thread waits for ever"
        gc.collect()
        patience = time.monotonic() + 20
        while (stats := self.llama.engine.stats()).running + stats.waiting + stats.preempted:
            assert time.monotonic() < patience, f"requests are left: {stats}"
            time.sleep(0.05)
        late = min(late, resident())
        print(dict(self.outcomes))
        print(dict(self.events))
        print(stats)
        print(f"{early:.1f} MiB, {late:.1f} MiB, {(late / early - 1) * 100:+.2f} %")
        assert not self.failures, self.failures
        assert stats.requests == stats.finished + stats.failed == self.events["submitted"]
        assert self.events["finished"] + self.events["failed"] >= stats.requests
        assert stats.speculation is None or (stats.speculation.failure is None and stats.speculation.accepted > 0)
        assert late < early * GROWTH + (FILLING_MIB if self.seconds < SHORT_SECONDS else 0)
        self.llama.close()


if __name__ == "__main__":
    Soak(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0, *sys.argv[3:]).run()
