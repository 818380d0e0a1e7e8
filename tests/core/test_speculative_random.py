"""Any order of operations, right or wrong: named errors only, no signal, and right drafts afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from draft_models import dflash, eagle3

from llamacore.testing import tiny_model

RunChild = Callable[..., str]

CHILD = """
import random
import time
from decoding import words
from speculating import Loop, plain
from llamacore.core.batch import Batch
from llamacore.core.speculative import SpeculativeConfig

path, kind, seed, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
rng = random.Random(seed)
model = lc.Model.load(path, load_mtp=True)
types = kind.split(",")
config = SpeculativeConfig(
    types, n_seq=3, n_draft_max=3, ngram_size_n=2, ngram_size_m=3, ngram_mod_n_match=2, ngram_mod_n_min=0,
    ngram_mod_n_max=4, p_min=rng.choice((0.0, 0.0, 0.02)), trims=rng.random() < 0.5,
)
draft_model = lc.Model.load(sys.argv[5]) if len(sys.argv) > 5 else None
counts = {}

def number(*usual):
    return rng.choice(usual) if rng.random() < 0.9 else rng.choice((-1, 0, 3, 7, 2**31 - 1, 2**31, -2**40, 10**30))

def tokens(most):
    return [rng.randrange(10, 14) for _ in range(rng.randrange(most))]

def one(loop, state):
    session, seq = loop.session, number(0, 1, 2)
    past = state.get(seq, 0)
    what = rng.choice(
        ["decode", "process", "draft", "accept", "trim"] * 3
        + ["begin", "draft_many", "trim_all", "copy", "refill", "cancel", "state", "flush"]
    )
    counts[what] = counts.get(what, 0) + 1
    memories = [context.memory for context in (loop.ctx, loop.dft) if context is not None]
    if what == "begin":
        session.begin(seq, tokens(number(0, 5, 30) % 64 + 1))
    elif what == "decode":
        loop.batch.clear()
        for one_seq in rng.sample(range(3), rng.randrange(1, 4)):
            start = max(loop.ctx.memory.seq_pos_max(one_seq) + 1, 0) if rng.random() < 0.9 else rng.randrange(50)
            loop.batch.add_tokens(tokens(6), pos=start, seq_id=one_seq, outputs="all")
        loop.ctx.decode(loop.batch)
        for one_seq in range(3):
            state[one_seq] = loop.ctx.memory.seq_pos_max(one_seq) + 1
    elif what == "process":
        session.process(loop.batch, None if rng.random() < 0.8 else number(0, 1, 2))
    elif what == "draft":
        session.draft(seq, number(past, past, past, past + 1), number(10, 11, 12), number(3, 2, 1, 0))
    elif what == "draft_many":
        seqs = [number(0, 1, 2) for _ in range(rng.randrange(4))]
        session.draft_many(seqs, [state.get(s, 0) for s in seqs], [number(10, 11) for _ in seqs], [3 for _ in seqs])
    elif what == "accept":
        session.accept(seq, number(0, 1, 2))
    elif what == "trim":
        memory = rng.choice(memories)
        memory.seq_rm(seq, number(past, max(past - 1, 0), 0))
        if memory is memories[0]:
            state[seq] = memory.seq_pos_max(seq) + 1
    elif what == "trim_all":
        for memory in memories:
            memory.seq_rm(seq)
        state[seq] = 0
    elif what == "copy":
        other = number(0, 1, 2)
        for memory in memories:
            memory.seq_cp(seq, other)
        state[other] = past
    elif what == "refill":
        loop.batch.clear()
        loop.batch.add_tokens(tokens(4), pos=number(past, 0), seq_id=number(0, 1))
    elif what == "cancel" and loop.dft is not None:
        loop.dft.cancel() if rng.random() < 0.5 else loop.dft.resume()
    elif what == "flush":
        session.flush(seq)
    elif what == "state":
        session.set_state(seq, session.get_state(seq))

stop, errors = time.monotonic() + seconds, {}
prompts = [words(4 + seq, seed=seq) for seq in range(3)]
expected = plain(model, prompts, 12)
while time.monotonic() < stop:
    with Loop(model, config, draft_model=draft_model, n_ctx=3 * 256, n_rs_seq=5) as loop:
        state = {}
        for _ in range(rng.randrange(10, 200)):
            try:
                one(loop, state)
            except (lc.BrokenError, lc.NativeError):
                raise
            except lc.LlamaCoreError as error:
                errors[type(error).__name__] = errors.get(type(error).__name__, 0) + 1
        loop.dft and loop.dft.resume()
        for seq in range(3):
            if loop.session.pending(seq):
                loop.session.accept(seq, 0)
            loop.cut(seq, 0)
        assert loop.generate(prompts, 12) == expected
print(sum(counts.values()), errors)
"""

KINDS = (
    ("qwen35", "draft-mtp"),
    ("qwen35", "draft-mtp,ngram-map-k4v,ngram-cache"),
    ("llama", "draft-simple"),
    ("llama", "draft-eagle3"),
    ("llama", "draft-dflash"),
    ("llama", "ngram-simple,ngram-map-k,ngram-mod"),
)


def run(run_child: RunChild, folder: Path, arch: str, kind: str, seed: int, seconds: float) -> None:
    """So many operations that every one is met, many of them right and many wrong."""
    options = {"n_nextn": 1} if arch == "qwen35" else {"n_layer": 3, "vocab": "spm"}
    path = tiny_model(folder / "target.gguf", arch=arch, **options)  # type: ignore[arg-type]
    writers = {"draft-eagle3": eagle3, "draft-dflash": dflash}
    drafts = [writers[kind](folder / "draft.gguf", [0, 1, 2])] if kind in writers else [path] * (kind == "draft-simple")
    printed = run_child(CHILD, path, kind, seed, seconds, *drafts)
    assert int(printed.split()[0]) > 200
    assert "InvalidArgumentError" in printed


@pytest.mark.parametrize(("arch", "kind"), KINDS)
def test_random_operations(run_child: RunChild, tmp_path: Path, arch: str, kind: str) -> None:
    run(run_child, tmp_path, arch, kind, 1, 0.4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("arch", "kind"), KINDS)
def test_many_random_operations(run_child: RunChild, tmp_path: Path, arch: str, kind: str, seed: int) -> None:
    run(run_child, tmp_path, arch, kind, 100 + seed, 20)
