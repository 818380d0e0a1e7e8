"""A state machine over everything that is owned: run as a script in a process of its own, where a crash shows.

python machine.py SEED STEPS DENSE HYBRID RECURRENT LORA
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import random
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import llamacore as lc
from llamacore.core.state import StateFlags

# what any call may say; NativeError and BrokenError would mean that something got past the checks
EXPECTED = (
    lc.BusyError,
    lc.ClosedError,
    lc.InvalidArgumentError,
    lc.OutOfRangeError,
    lc.OutputError,
    lc.UnsupportedError,
    lc.DecodeError,
    lc.SamplingError,
    lc.StateError,
    lc.AdapterError,
    lc.ContextError,
)
PATHS: list[str] = []
LORA = ""
STEPS = 0
SEEN: Counter[str] = Counter()

index = st.integers(0, 7)
small = st.integers(-2, 40)
tokens = st.lists(st.integers(-1, 600), min_size=0, max_size=12)


class Pool:
    """The last few objects of a kind; older ones are dropped without a word."""

    def __init__(self, size: int) -> None:
        self._items: list[Any] = []
        self._size = size

    def put(self, item: Any) -> None:
        """Keep it, and let go of one if there are too many."""
        self._items.append(item)
        if len(self._items) > self._size:
            del self._items[random.Random(len(self._items)).randrange(self._size)]

    def get(self, number: int) -> Any:
        """One of them."""
        return self._items[number % len(self._items)] if self._items else None

    def take(self, number: int) -> Any:
        """One of them, no longer kept."""
        return self._items.pop(number % len(self._items)) if self._items else None


class Owned(RuleBasedStateMachine):
    """Opens, uses, closes, copies and drops models, contexts, samplers, adapters, batches and states in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.models, self.contexts, self.samplers = Pool(3), Pool(4), Pool(5)
        self.batches, self.states, self.loras, self.parts = Pool(3), Pool(3), Pool(3), Pool(4)
        self.folder = tempfile.TemporaryDirectory()
        self.threads: list[threading.Thread] = []
        self.open_model(0)
        self.open_context(0, 0, False)

    def attempt(self, name: str, call: Any, *args: Any, **options: Any) -> Any:
        """Call, and accept the errors that a call may end in."""
        global STEPS
        STEPS += 1
        try:
            result = call(*args, **options)
        except EXPECTED as error:
            SEEN[f"{name}: {type(error).__name__}"] += 1
            return None
        SEEN[name] += 1
        return result

    @rule(which=index)
    def open_model(self, which: int) -> None:
        self.models.put(lc.Model.load(PATHS[which % len(PATHS)]))

    @rule(model=index, kind=st.integers(0, 5), unified=st.booleans())
    def open_context(self, model: int, kind: int, unified: bool) -> None:
        options: dict[str, Any] = {"n_ctx": 256, "n_seq_max": 2, "kv_unified": unified, "n_threads": 1 + kind % 2}
        if kind == 3:
            options["ctx_other"] = self.contexts.get(model)
        if kind == 4 and (chain := self.samplers.get(model)) is not None:
            options["samplers"] = {0: chain}
        if kind == 5:
            options["embeddings"] = True
        if (owner := self.models.get(model)) is not None:
            made = self.attempt("context", owner.context, **options)
            if made is not None:
                self.contexts.put(made)
                self.parts.put(made.memory if kind % 2 else made.state)

    @rule(model=index, kind=st.integers(0, 4))
    def open_sampler(self, model: int, kind: int) -> None:
        owner = self.models.get(model)
        makers = [
            lc.Sampler.greedy,
            lambda: lc.Sampler.dist(7),
            lambda: lc.Sampler.chain(lc.Sampler.top_k(5), lc.Sampler.dist(1)),
            lambda: lc.Sampler.grammar(owner, 'root ::= "a"*'),
            lambda: lc.Sampler.chain(),
        ]
        if owner is not None and (made := self.attempt("sampler", makers[kind])) is not None:
            self.samplers.put(made)

    @rule(model=index)
    def open_lora(self, model: int) -> None:
        if (owner := self.models.get(model)) is not None:
            made = self.attempt("lora", lc.LoraAdapter.load, owner, LORA)
            if made is not None:
                self.loras.put(made)

    @rule(ids=tokens, pos=small, seq=st.integers(-1, 3))
    def fill_batch(self, ids: list[int], pos: int, seq: int) -> None:
        batch = lc.Batch(12)
        self.attempt("fill", batch.add_tokens, ids, pos=pos, seq_id=seq)
        self.batches.put(batch)

    @rule(batch=index, context=index)
    def decode(self, batch: int, context: int) -> None:
        rows, ctx = self.batches.get(batch), self.contexts.get(context)
        if rows is not None and ctx is not None:
            self.attempt("decode", ctx.decode, rows)

    @rule(context=index, ids=st.lists(st.integers(5, 300), min_size=1, max_size=12))
    def go_on(self, context: int, ids: list[int]) -> None:
        def work() -> None:
            batch = lc.Batch(12)
            batch.add_tokens(ids, pos=max(ctx.memory.seq_pos_max(0), -1) + 1)
            ctx.decode(batch)
            ctx.logits()

        if (ctx := self.contexts.get(context)) is not None:
            self.attempt("go on", work)

    @rule(context=index, row=st.integers(-5, 12), what=st.integers(0, 4))
    def read(self, context: int, row: int, what: int) -> None:
        if (ctx := self.contexts.get(context)) is not None:
            calls = (ctx.logits, ctx.embeddings, ctx.embeddings_seq, ctx.logprobs, ctx.sampled)
            self.attempt("read", calls[what], row)

    @rule(context=index, sampler=index, row=st.integers(-2, 3))
    def sample(self, context: int, sampler: int, row: int) -> None:
        def work() -> None:
            batch = lc.Batch(1)
            batch.add(5, max(ctx.memory.seq_pos_max(0), -1) + 1, output=True)
            ctx.decode(batch)
            chosen.sample(ctx, row)

        ctx, chosen = self.contexts.get(context), self.samplers.get(sampler)
        if ctx is not None and chosen is not None:
            self.attempt("sample", work)

    @rule(context=index, sampler=index, seq=st.integers(-1, 2), take=st.booleans())
    def set_sampler(self, context: int, sampler: int, seq: int, take: bool) -> None:
        if (ctx := self.contexts.get(context)) is not None:
            self.attempt("set_sampler", ctx.set_sampler, seq, None if take else self.samplers.get(sampler))

    @rule(sampler=index, other=index, what=st.integers(0, 4))
    def work_sampler(self, sampler: int, other: int, what: int) -> None:
        one, two = self.samplers.get(sampler), self.samplers.get(other)
        if one is None or two is None:
            return
        if what == 0 and (copy := self.attempt("clone", one.clone)) is not None:
            self.samplers.put(copy)
        elif what == 1:
            self.attempt("add", one.add, two)
        elif what == 2 and (freed := self.attempt("remove", one.remove, 0)) is not None:
            self.samplers.put(freed)
        elif what == 3:
            self.attempt("reset", one.reset)
        else:
            self.attempt("accept", one.accept, 5)

    @rule(context=index, lora=index, scale=st.floats(-1, 2), none=st.booleans())
    def set_lora(self, context: int, lora: int, scale: float, none: bool) -> None:
        ctx, adapter = self.contexts.get(context), self.loras.get(lora)
        if ctx is not None and (none or adapter is not None):
            self.attempt("set_lora", ctx.set_lora, {} if none else {adapter: scale})

    @rule(context=index, a=small, b=small, seq=st.integers(-1, 2), what=st.integers(0, 7))
    def edit_memory(self, context: int, a: int, b: int, seq: int, what: int) -> None:
        if (ctx := self.contexts.get(context)) is None:
            return
        memory = ctx.memory
        calls: list[Any] = [
            lambda: memory.seq_rm(seq, a, b),
            lambda: memory.seq_cp(seq, 1 - seq, a, b),
            lambda: memory.seq_keep(seq),
            lambda: memory.seq_add(seq, a, b, b - a),
            lambda: memory.seq_div(seq, a, b, a),
            lambda: memory.seq_cp(0, 1),
            memory.clear,
            lambda: (memory.seq_pos_min(seq), memory.seq_pos_max(seq), memory.can_shift, memory.present),
        ]
        self.attempt("memory", calls[what])

    @rule(context=index, part=index, seq=st.sampled_from([None, 0, 1]), what=st.integers(0, 4))
    def move_state(self, context: int, part: int, seq: int | None, what: int) -> None:
        if (ctx := self.contexts.get(context)) is None:
            return
        path = Path(self.folder.name) / f"state{part % 2}"
        if what == 0 and (data := self.attempt("to_bytes", ctx.state.to_bytes, seq)) is not None:
            self.states.put(data)
        elif what == 1 and (data := self.states.get(part)) is not None:
            self.attempt("from_bytes", ctx.state.from_bytes, data, seq)
        elif what == 2:
            self.attempt("save", ctx.state.save, path, [1, 2], seq)
        elif what == 3:
            self.attempt("load", ctx.state.load, path, seq)
        elif (data := self.attempt("on device", ctx.state.to_bytes, 0, StateFlags.ON_DEVICE)) is not None:
            self.states.put(data)

    @rule(context=index, what=st.integers(0, 8), n=st.integers(1, 3))
    def change_context(self, context: int, what: int, n: int) -> None:
        if (ctx := self.contexts.get(context)) is None:
            return
        calls: list[Any] = [
            lambda: ctx.set_threads(n),
            lambda: ctx.set_embeddings(n == 1),
            lambda: ctx.set_causal_attn(n > 1),
            ctx.synchronize,
            ctx.memory_use,
            ctx.perf,
            ctx.warmup,
            lambda: (ctx.cancel(), ctx.resume()),
            lambda: ctx.set_control_vector(None),
        ]
        self.attempt("change", calls[what])

    @rule(model=index, token=st.integers(-2, 700), text=st.text(max_size=20))
    def ask_model(self, model: int, token: int, text: str) -> None:
        if (owner := self.models.get(model)) is not None:
            self.attempt("tokenize", owner.vocab.tokenize, text)
            self.attempt("piece", owner.vocab.token_to_piece, token)
            self.attempt("describe", lambda: (owner.desc, owner.n_params, owner.metadata.get("general.name")))

    @rule(number=index, kind=st.integers(0, 3))
    def close(self, number: int, kind: int) -> None:
        item = (self.models, self.contexts, self.samplers, self.loras)[kind].get(number)
        if item is not None:
            self.attempt("close", item.close)

    @rule(number=index, kind=st.integers(0, 5))
    def drop(self, number: int, kind: int) -> None:
        pools = (self.models, self.contexts, self.samplers, self.loras, self.parts, self.states)
        pools[kind].take(number)

    @rule()
    def collect(self) -> None:
        gc.collect()

    @rule(context=index, model=index, what=st.integers(0, 5), seed=st.integers(0, 999))
    def from_a_thread(self, context: int, model: int, what: int, seed: int) -> None:
        """The same calls from another thread, which runs on while the next rules do."""
        ctx, owner = self.contexts.get(context), self.models.get(model)
        if ctx is None or owner is None:
            return

        def decode() -> None:
            batch = lc.Batch(200)
            batch.add_tokens([5] * 150)
            ctx.memory.clear()
            ctx.decode(batch)

        def contexts() -> None:
            for _ in range(3):
                with owner.context(n_ctx=256, n_threads=1) as own:
                    batch = lc.Batch(4)
                    batch.add_tokens([5, 6])
                    own.decode(batch)

        calls: list[Any] = [decode, contexts, ctx.close, owner.close, ctx.cancel, lambda: owner.vocab.tokenize("a b")]

        def work() -> None:
            for _ in range(random.Random(seed).randint(1, 3)):
                self.attempt("thread", calls[what])

        thread = threading.Thread(target=work)
        thread.start()
        self.threads = [other for other in self.threads if other.is_alive()] + [thread]
        if len(self.threads) > 3:
            self.threads.pop(0).join()

    @invariant()
    def nothing_is_broken(self) -> None:
        for pool in (self.contexts, self.models, self.samplers):
            reasons = [f"{item!r}: {item._core.broken}" for item in pool._items if item._core.broken]
            assert not reasons, reasons

    def teardown(self) -> None:
        for thread in self.threads:
            thread.join()
        if SEEN["drop at the end"] % 2:  # half of the runs leave everything to the collector
            with contextlib.suppress(lc.BusyError):
                for item in self.models._items:
                    item.close()
        SEEN["drop at the end"] += 1
        self.folder.cleanup()


def main() -> None:
    """Run until enough calls were made, and say what they ended in."""
    global LORA
    faulthandler.enable()
    seed, steps = int(sys.argv[1]), int(sys.argv[2])
    PATHS.extend(sys.argv[3:-1])
    LORA = sys.argv[-1]
    round_number = 0
    while steps > STEPS:
        case = settings(
            max_examples=5,
            stateful_step_count=100,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            derandomize=False,
        )
        run_state_machine_as_test(with_seed(Owned, seed + round_number), settings=case)
        round_number += 1
    print(f"{STEPS} calls in {round_number} rounds")
    for name, count in sorted(SEEN.items()):
        print(f"{count:6d} {name}")


def with_seed(machine: type[RuleBasedStateMachine], number: int) -> type[RuleBasedStateMachine]:
    """The machine, with the random choices of a number."""
    from hypothesis import seed

    return seed(number)(machine)


if __name__ == "__main__":
    main()
