"""Opens, uses, closes, copies and drops native objects in any order and from several threads. Run by a test in a child.

Usage: machine.py FOLDER STEPS SEED. It prints the number of steps done and of errors met; what it proves is that it
gets there.
"""

from __future__ import annotations

import collections
import faulthandler
import gc
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

import llamacore as lc
from llamacore.testing import tiny_model

KINDS: dict[str, dict[str, Any]] = {"llama": {}, "qwen35": {}, "mamba": {}}
LIMIT = 6  # of each kind of object, so that the child stays small
counts: collections.Counter[str] = collections.Counter()
folder = Path()


def attempt(action: Callable[[], Any]) -> Any:
    """Run an action that may be refused: an error of ours is fine, any other is a failure."""
    counts["steps"] += 1
    try:
        return action()
    except lc.LlamaCoreError as exc:
        counts[type(exc).__name__] += 1
        return None


class Objects(RuleBasedStateMachine):
    """Lists of open and closed objects; each rule picks some by number."""

    def __init__(self) -> None:
        super().__init__()
        self.models: list[lc.Model] = []
        self.contexts: list[lc.Context] = []
        self.samplers: list[lc.Sampler] = []
        self.batches: list[lc.Batch] = [lc.Batch(8), lc.Batch(32)]
        self.states: list[bytes] = []
        for number, kind in enumerate(sorted(KINDS)):  # something to use and to break from the first step on
            self.load_kind(kind)
            self.open_context(number, 2, True, True)
        self.add(self.samplers, lc.Sampler.greedy())

    def pick(self, items: list[Any], number: int) -> Any:
        return items[number % len(items)] if items else None

    def add(self, items: list[Any], item: Any) -> None:
        if item is not None:
            items.append(item)
            del items[:-LIMIT]

    def load_kind(self, kind: str) -> None:
        self.add(self.models, attempt(lambda: lc.Model.load(folder / f"{kind}.gguf")))

    @rule(kind=st.sampled_from(sorted(KINDS)))
    def load(self, kind: str) -> None:
        self.load_kind(kind)

    @rule(n=st.integers(0, 99), n_seq_max=st.integers(1, 3), unified=st.booleans(), embeddings=st.booleans())
    def context(self, n: int, n_seq_max: int, unified: bool, embeddings: bool) -> None:
        self.open_context(n, n_seq_max, unified, embeddings)

    def open_context(self, n: int, n_seq_max: int, unified: bool, embeddings: bool) -> None:
        model = self.pick(self.models, n)
        if model is not None:
            options = {"n_seq_max": n_seq_max, "kv_unified": unified, "embeddings": embeddings}
            self.add(self.contexts, attempt(lambda: model.context(n_ctx=64, n_batch=16, n_threads=1, **options)))

    @rule(n=st.integers(0, 99), which=st.integers(0, 6), seed=st.integers(0, 3))
    def sampler(self, n: int, which: int, seed: int) -> None:
        model = self.pick(self.models, n)
        makers = [
            lc.Sampler.greedy,
            lambda: lc.Sampler.dist(seed),
            lambda: lc.Sampler.chain(lc.Sampler.top_k(3), lc.Sampler.dist(seed)),
            lambda: model and lc.Sampler.penalties(model, 8, 1.1, 0.1, 0.1),
            lambda: model and lc.Sampler.grammar(model, "root ::= [a-z]*"),
            lambda: model and lc.Sampler.chain(lc.Sampler.grammar(model, "root ::= [a-c]+"), lc.Sampler.greedy()),
            lambda: model and lc.SamplingParams(seed=seed).chain(model),
        ]
        self.add(self.samplers, attempt(makers[which]))

    @rule(
        a=st.integers(0, 99), b=st.integers(0, 99), action=st.sampled_from(["chain", "add", "remove", "clone", "reset"])
    )
    def recombine(self, a: int, b: int, action: str) -> None:
        one, two = self.pick(self.samplers, a), self.pick(self.samplers, b)
        if one is None:
            return
        actions: dict[str, Callable[[], Any]] = {
            "chain": lambda: lc.Sampler.chain(one, two),
            "add": lambda: one.add(two),
            "remove": lambda: one.remove(b % 3),
            "clone": one.clone,
            "reset": one.reset,
        }
        made = attempt(actions[action])
        if isinstance(made, lc.Sampler):
            self.add(self.samplers, made)

    @rule(
        n=st.integers(0, 99),
        token=st.integers(-2, 600),
        pos=st.integers(-1, 70),
        seq=st.integers(-1, 4),
        out=st.booleans(),
    )
    def fill(self, n: int, token: int, pos: int, seq: int, out: bool) -> None:
        attempt(lambda: self.pick(self.batches, n).add(token, pos, (seq,), out))

    @rule(n=st.integers(0, 99), count=st.integers(1, 20), pos=st.integers(0, 40), seq=st.integers(0, 2))
    def fill_run(self, n: int, count: int, pos: int, seq: int) -> None:
        attempt(lambda: self.pick(self.batches, n).add_tokens(range(5, 5 + count), pos, seq))

    @rule(n=st.integers(0, 99))
    def clear_batch(self, n: int) -> None:
        attempt(self.pick(self.batches, n).clear)

    def use(self, ctx: lc.Context, number: int, b: int) -> Callable[[], Any]:
        batch, sampler, memory = self.pick(self.batches, b), self.pick(self.samplers, b), lambda: ctx.memory
        uses: list[Callable[[], Any]] = [
            lambda: ctx.decode(batch),
            lambda: ctx.logits(b % 9 - 1),
            lambda: ctx.embeddings(b % 9 - 1),
            lambda: ctx.embeddings_seq(b % 4),
            lambda: ctx.logprobs(-1, token=b, n_top=b % 5),
            lambda: sampler and sampler.sample(ctx, b % 5 - 1),
            lambda: sampler and lc.Sampler.greedy().sample(ctx, -1),
            lambda: memory().clear(),
            lambda: memory().seq_rm(b % 4 - 1, b % 7 - 1, b % 11 - 1),
            lambda: memory().seq_cp(b % 3, b % 2, -1, b % 5 - 1),
            lambda: memory().seq_keep(b % 4),
            lambda: memory().seq_add(b % 3, b % 7 - 1, -1, b % 9 - 4),
            lambda: memory().seq_div(b % 3, 0, -1, b % 3),
            lambda: memory().seq_pos_max(b % 4),
            lambda: self.add(self.states, ctx.state.to_bytes(None if b % 2 else b % 3)),
            lambda: self.states and ctx.state.from_bytes(self.pick(self.states, b), None if b % 2 else b % 3),
            lambda: ctx.set_sampler(b % 3, sampler),
            lambda: ctx.set_threads(1 + b % 2),
            lambda: ctx.set_embeddings(b % 2 == 0),
            ctx.cancel,
            ctx.resume,
            ctx.memory_use,
            ctx.perf,
        ]
        return uses[number % len(uses)]

    @rule(n=st.integers(0, 99), number=st.integers(0, 99), b=st.integers(0, 99))
    def use_context(self, n: int, number: int, b: int) -> None:
        ctx = self.pick(self.contexts, n)
        if ctx is not None:
            attempt(self.use(ctx, number, b))

    @rule(
        n=st.integers(0, 99),
        uses=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=2, max_size=4),
        close=st.booleans(),
    )
    def from_several_threads(self, n: int, uses: list[tuple[int, int]], close: bool) -> None:
        ctx = self.pick(self.contexts, n)
        if ctx is None:
            return
        actions = [self.use(ctx, number, b) for number, b in uses]
        if close:
            actions.append(self.pick([ctx.close, ctx.model.close, gc.collect], n))
        failures: list[BaseException] = []

        def run(action: Callable[[], Any]) -> None:
            try:
                for _ in range(3):
                    attempt(action)
            except BaseException as exc:
                failures.append(exc)

        threads = [threading.Thread(target=run, args=(action,)) for action in actions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a call never returned"
        if failures:
            raise failures[0]

    @rule(n=st.integers(0, 99), kind=st.sampled_from(["models", "contexts", "samplers"]))
    def close(self, n: int, kind: str) -> None:
        item = self.pick(getattr(self, kind), n)
        if item is not None:
            attempt(item.close)

    @rule(
        n=st.integers(0, 99), kind=st.sampled_from(["models", "contexts", "samplers", "states"]), collect=st.booleans()
    )
    def drop(self, n: int, kind: str, collect: bool) -> None:
        items = getattr(self, kind)
        if items:
            del items[n % len(items)]
        if collect:
            gc.collect()

    @rule(n=st.integers(0, 99), text=st.text(max_size=20))
    def tokenize(self, n: int, text: str) -> None:
        model = self.pick(self.models, n)
        if model is not None:
            attempt(lambda: model.vocab.detokenize(model.vocab.tokenize(text)))


def main() -> None:
    global folder
    faulthandler.enable()
    folder, steps, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    for kind, options in KINDS.items():
        tiny_model(folder / f"{kind}.gguf", arch=kind, **options)
    settings = hypothesis.settings(
        max_examples=20,
        stateful_step_count=50,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    rounds = random.Random(seed)
    while counts["steps"] < steps:
        machine = hypothesis.seed(rounds.randrange(2**32))(type("Seeded", (Objects,), {}))
        run_state_machine_as_test(machine, settings=settings)
    print(counts["steps"], "steps,", sum(counts.values()) - counts["steps"], "errors of ours:", dict(counts))


if __name__ == "__main__":
    main()
