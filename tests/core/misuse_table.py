"""Every public method of the owned objects: a call that is right, and the ways to call it wrongly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import llamacore as lc
from llamacore.core.memory import Memory
from llamacore.core.state import State, StateFlags

CLASSES = (lc.Model, lc.Vocab, lc.Context, Memory, State, lc.Batch)


@dataclass
class Things:
    """What the calls are made on."""

    model: lc.Model
    ctx: lc.Context
    memory: Memory
    state: State
    vocab: lc.Vocab
    batch: lc.Batch
    embd: lc.Batch
    saved: bytes
    folder: Path

    @classmethod
    def make(cls, path: str, folder: Path) -> Things:
        """A model with a context that has decoded three tokens of each of its two sequences."""
        model = lc.Model.load(path)
        ctx = model.context(n_ctx=512, n_seq_max=2, n_threads=1, kv_unified=True)
        batch, embd = lc.Batch(8, n_seq_max=2), lc.Batch(8, n_embd=4)
        things = cls(model, ctx, ctx.memory, ctx.state, model.vocab, batch, embd, b"", folder)
        things.reset()
        ctx.state.save(folder / "state")
        ctx.state.save(folder / "sequence", seq_id=0)
        things.saved = ctx.state.to_bytes()
        return things

    def reset(self) -> None:
        """Go back to the state after `make`."""
        self.ctx.resume()
        self.ctx.set_embeddings(False)
        self.ctx.set_causal_attn(True)
        self.memory.clear()
        self.embd.clear()
        self.batch.clear()
        for pos in range(3):
            self.batch.add(5 + pos, pos, (0, 1), output=True)
        self.ctx.decode(self.batch)


def after(t: Things) -> lc.Batch:
    """A batch that may be decoded next."""
    batch = lc.Batch(4)
    batch.add(5, max(t.memory.seq_pos_max(0), -1) + 1, output=True)
    return batch


# what answers after close(): facts that were read when the object was made, and the ends of things
ALIVE = {
    "Model.close", "Model.closed", "Model.vocab", "Model.load", "Model.n_vocab",
    "Vocab.n_tokens", "Vocab.type",
    "Context.close", "Context.closed", "Context.cancel", "Context.cancelled", "Context.resume", "Context.n_threads",
    "Context.n_threads_batch", "Context.memory", "Context.state",
}  # fmt: skip

CALLS: dict[str, Callable[[Things], Any]] = {
    "Model.chat_template": lambda t: t.model.chat_template(),
    "Model.context": lambda t: t.model.context(n_ctx=256, n_threads=1).close(),
    "Model.save": lambda t: t.model.save(t.folder / "copy.gguf"),
    "Vocab.attr": lambda t: t.vocab.attr(5),
    "Vocab.detokenize": lambda t: t.vocab.detokenize([5]),
    "Vocab.detokenize_bytes": lambda t: t.vocab.detokenize_bytes([5]),
    "Vocab.is_control": lambda t: t.vocab.is_control(5),
    "Vocab.is_eog": lambda t: t.vocab.is_eog(5),
    "Vocab.score": lambda t: t.vocab.score(5),
    "Vocab.text": lambda t: t.vocab.text(5),
    "Vocab.token_to_piece": lambda t: t.vocab.token_to_piece(5),
    "Vocab.tokenize": lambda t: t.vocab.tokenize("hello"),
    "Vocab.with_attr": lambda t: t.vocab.with_attr(lc.TokenAttr.CONTROL),
    "Context.decode": lambda t: t.ctx.decode(after(t)),
    "Context.logits": lambda t: t.ctx.logits(),
    "Context.logprobs": lambda t: t.ctx.logprobs(token=5, n_top=2),
    "Context.memory_use": lambda t: t.ctx.memory_use(),
    "Context.perf": lambda t: t.ctx.perf(),
    "Context.perf_reset": lambda t: t.ctx.perf_reset(),
    "Context.set_causal_attn": lambda t: t.ctx.set_causal_attn(True),
    "Context.set_control_vector": lambda t: t.ctx.set_control_vector(None),
    "Context.set_embeddings": lambda t: t.ctx.set_embeddings(False),
    "Context.set_lora": lambda t: t.ctx.set_lora({}),
    "Context.set_sampler": lambda t: t.ctx.set_sampler(0, None),
    "Context.set_threads": lambda t: t.ctx.set_threads(1),
    "Context.synchronize": lambda t: t.ctx.synchronize(),
    "Context.set_embeddings_layer_inp": lambda t: t.ctx.set_embeddings_layer_inp(0, False),
    "Context.set_embeddings_nextn": lambda t: t.ctx.set_embeddings_nextn(False),
    "Memory.clear": lambda t: t.memory.clear(data=False),
    "Memory.seq_add": lambda t: t.memory.seq_add(0, 0, -1, 1),
    "Memory.seq_cp": lambda t: t.memory.seq_cp(0, 1),
    "Memory.seq_div": lambda t: t.memory.seq_div(0, 0, -1, 2),
    "Memory.seq_keep": lambda t: t.memory.seq_keep(0),
    "Memory.seq_pos_max": lambda t: t.memory.seq_pos_max(0),
    "Memory.rolled_back": lambda t: t.memory.rolled_back(0),
    "Memory.seq_pos_min": lambda t: t.memory.seq_pos_min(0),
    "Memory.seq_rm": lambda t: t.memory.seq_rm(0, 1, 2),
    "State.fingerprint": lambda t: t.state.fingerprint(),
    "State.from_bytes": lambda t: t.state.from_bytes(t.saved),
    "State.load": lambda t: t.state.load(t.folder / "state"),
    "State.save": lambda t: t.state.save(t.folder / "other"),
    "State.size": lambda t: t.state.size(),
    "State.to_bytes": lambda t: t.state.to_bytes(0),
    "Batch.add": lambda t: t.batch.add(5, 3, (0,)),
    "Batch.add_embd": lambda t: t.embd.add_embd([1, 2, 3, 4], 0),
    "Batch.advance": lambda t: t.batch.advance([5] * len(t.batch)),
    "Batch.add_tokens": lambda t: t.batch.add_tokens([5, 6]),
    "Batch.clear": lambda t: t.batch.clear(),
    "Batch.embd": lambda t: t.embd.embd,
    "Batch.seq_ids": lambda t: t.batch.seq_ids(0),
}

# right only for other models or contexts: here they are refused, before and after closing
ELSEWHERE: dict[str, Callable[[Things], Any]] = {
    "Context.encode": lambda t: t.ctx.encode(after(t)),
    "Context.embeddings": lambda t: t.ctx.embeddings(0),
    "Context.embeddings_seq": lambda t: t.ctx.embeddings_seq(0),
    "Context.embeddings_layer_inp": lambda t: t.ctx.embeddings_layer_inp(0),
    "Context.embeddings_nextn": lambda t: t.ctx.embeddings_nextn(0),
    "Context.warmup": lambda t: t.ctx.warmup(),
    "Context.set_nextn_layer_offset": lambda t: t.ctx.set_nextn_layer_offset(0),
    "Context.sampled": lambda t: t.ctx.sampled(),
}

# a slot for one number each: every number that it has no use for is refused
NUMBER_SLOTS: dict[str, Callable[[Things, Any], Any]] = {
    "Vocab.attr": lambda t, n: t.vocab.attr(n),
    "Vocab.detokenize": lambda t, n: t.vocab.detokenize([n]),
    "Vocab.detokenize_bytes": lambda t, n: t.vocab.detokenize_bytes([5, n]),
    "Vocab.is_control": lambda t, n: t.vocab.is_control(n),
    "Vocab.is_eog": lambda t, n: t.vocab.is_eog(n),
    "Vocab.score": lambda t, n: t.vocab.score(n),
    "Vocab.text": lambda t, n: t.vocab.text(n),
    "Vocab.token_to_piece": lambda t, n: t.vocab.token_to_piece(n),
    "Context.logits": lambda t, n: t.ctx.logits(-1000 if n == -2 else n),
    "Context.logprobs": lambda t, n: t.ctx.logprobs(-1000 if n == -2 else n),
    "Context.logprobs token": lambda t, n: t.ctx.logprobs(token=n),
    "Context.logprobs n_top": lambda t, n: t.ctx.logprobs(n_top=n),
    "Context.embeddings": lambda t, n: t.ctx.embeddings(n),
    "Context.embeddings_seq": lambda t, n: t.ctx.embeddings_seq(n),
    "Context.embeddings_layer_inp": lambda t, n: t.ctx.embeddings_layer_inp(n),
    "Context.embeddings_nextn": lambda t, n: t.ctx.embeddings_nextn(n),
    "Context.sampled": lambda t, n: t.ctx.sampled(-1000 if n == -2 else n),
    "Context.set_embeddings_layer_inp": lambda t, n: t.ctx.set_embeddings_layer_inp(n, True),
    "Context.set_sampler": lambda t, n: t.ctx.set_sampler(n, None),
    "Context.set_threads": lambda t, n: t.ctx.set_threads(n),
    "Memory.seq_add seq": lambda t, n: t.memory.seq_add(n, 0, -1, 1),
    "Memory.seq_add p0": lambda t, n: t.memory.seq_add(0, n, -1, 1),
    "Memory.seq_add p1": lambda t, n: t.memory.seq_add(0, 0, n, 1),
    "Memory.seq_add delta": lambda t, n: t.memory.seq_add(0, 0, -1, 2**40 if n == -2 else n),
    "Memory.seq_cp src": lambda t, n: t.memory.seq_cp(n, 1),
    "Memory.seq_cp dst": lambda t, n: t.memory.seq_cp(0, n),
    "Memory.seq_cp p0": lambda t, n: t.memory.seq_cp(0, 1, n, -1),
    "Memory.seq_cp p1": lambda t, n: t.memory.seq_cp(0, 1, 0, n),
    "Memory.seq_div seq": lambda t, n: t.memory.seq_div(n, 0, -1, 2),
    "Memory.seq_div p1": lambda t, n: t.memory.seq_div(0, 0, n, 2),
    "Memory.seq_div divisor": lambda t, n: t.memory.seq_div(0, 0, -1, n),
    "Memory.seq_keep": lambda t, n: t.memory.seq_keep(n),
    "Memory.seq_pos_max": lambda t, n: t.memory.seq_pos_max(n),
    "Memory.rolled_back": lambda t, n: t.memory.rolled_back(n),
    "Memory.seq_pos_min": lambda t, n: t.memory.seq_pos_min(n),
    "Memory.seq_rm seq": lambda t, n: t.memory.seq_rm(n),
    "Memory.seq_rm p0": lambda t, n: t.memory.seq_rm(0, n, -1),
    "Memory.seq_rm p1": lambda t, n: t.memory.seq_rm(0, 0, n),
    "State.from_bytes": lambda t, n: t.state.from_bytes(t.saved, n),
    "State.load": lambda t, n: t.state.load(t.folder / "sequence", n),
    "State.save": lambda t, n: t.state.save(t.folder / "other", seq_id=n),
    "State.save token": lambda t, n: t.state.save(t.folder / "other", [2**31 if n == -2 else n]),
    "State.size": lambda t, n: t.state.size(n),
    "State.size flags": lambda t, n: t.state.size(0, n),
    "State.to_bytes": lambda t, n: t.state.to_bytes(n),
    "State.to_bytes flags": lambda t, n: t.state.to_bytes(0, n),
    "Batch.add token": lambda t, n: t.batch.add(n, 3),
    "Batch.add pos": lambda t, n: t.batch.add(5, n),
    "Batch.add seq": lambda t, n: t.batch.add(5, 3, (n,)),
    "Batch.add_embd": lambda t, n: t.embd.add_embd([1, 2, 3, 4], n),
    "Batch.add_embd section": lambda t, n: t.embd.add_embd([1, 2, 3, 4], (0, n, 0, 0)),
    "Batch.add_embd seq": lambda t, n: t.embd.add_embd([1, 2, 3, 4], 0, (n,)),
    "Batch.add_tokens": lambda t, n: t.batch.add_tokens([5, n]),
    "Batch.add_tokens pos": lambda t, n: t.batch.add_tokens([5], pos=n),
    "Batch.add_tokens seq": lambda t, n: t.batch.add_tokens([5], seq_id=n),
    "Batch.seq_ids": lambda t, n: t.batch.seq_ids(n),
    "Batch": lambda t, n: lc.Batch(n),
    "Batch n_embd": lambda t, n: lc.Batch(1, n_embd=n),
    "Batch n_seq_max": lambda t, n: lc.Batch(1, n_seq_max=n),
}
NUMBERS = [-2, 2**31, 2**63, 10**30, float("nan"), float("inf"), 1.5, "x", b"1", [1], object()]

# calls with something of another type, or out of place
OTHERS: dict[str, Callable[[Things], Any]] = {
    "decode a list": lambda t: t.ctx.decode([1, 2, 3]),
    "decode None": lambda t: t.ctx.decode(None),
    "encode a list": lambda t: t.ctx.encode([1]),
    "decode an empty batch": lambda t: t.ctx.decode(lc.Batch(1)),
    "decode embeddings of another width": lambda t: t.ctx.decode(t.embd),
    "decode what is not in the vocabulary": lambda t: t.ctx.decode(wrong(token=2**31 - 1)),
    "decode an unknown sequence": lambda t: t.ctx.decode(wrong(seq_id=2)),
    "decode a gap": lambda t: t.ctx.decode(wrong(pos=100)),
    "decode a position twice": lambda t: t.ctx.decode(wrong(pos=0)),
    "logits of None": lambda t: t.ctx.logits(None),
    "set_threads of None": lambda t: t.ctx.set_threads(None),
    "set_sampler of a number": lambda t: t.ctx.set_sampler(0, 5),
    "set_sampler of a plain sampler": lambda t: t.ctx.set_sampler(0, lc.Sampler.greedy()),
    "set_lora of a list": lambda t: t.ctx.set_lora([1]),
    "set_lora of a number": lambda t: t.ctx.set_lora({5: 1.0}),
    "set_control_vector of a wrong shape": lambda t: t.ctx.set_control_vector(np.zeros((9, 9), dtype=np.float32)),
    "set_control_vector times infinity": lambda t: t.ctx.set_control_vector(
        np.zeros((1, t.model.n_embd), dtype=np.float32), scale=float("inf")
    ),
    "set_control_vector of text": lambda t: t.ctx.set_control_vector("x"),
    "tokenize a number": lambda t: t.vocab.tokenize(5),
    "tokenize None": lambda t: t.vocab.tokenize(None),
    "tokenize a list": lambda t: t.vocab.tokenize([1]),
    "tokenize a lone surrogate": lambda t: t.vocab.tokenize("\udc80"),
    "detokenize text": lambda t: t.vocab.detokenize("abc"),
    "detokenize a number": lambda t: t.vocab.detokenize(5),
    "detokenize None": lambda t: t.vocab.detokenize(None),
    "with_attr of text": lambda t: t.vocab.with_attr("x"),
    "from_bytes of None": lambda t: t.state.from_bytes(None),
    "from_bytes of text": lambda t: t.state.from_bytes("abc" * 100),
    "from_bytes of a number": lambda t: t.state.from_bytes(5),
    "from_bytes of noise": lambda t: t.state.from_bytes(b"x" * 1000),
    "from_bytes into a sequence": lambda t: t.state.from_bytes(t.saved, 0),
    "to_bytes with text as flags": lambda t: t.state.to_bytes(0, "x"),
    "to_bytes with all flags and more": lambda t: t.state.to_bytes(0, StateFlags(8)),
    "load of None": lambda t: t.state.load(None),
    "load of a number": lambda t: t.state.load(5.5),
    "load with NUL": lambda t: t.state.load("a\0b"),
    "save with NUL": lambda t: t.state.save("a\0b"),
    "save of text as tokens": lambda t: t.state.save(t.folder / "other", "abc"),
    "save a model with NUL": lambda t: t.model.save("a\0b"),
    "save a model to a number": lambda t: t.model.save(5),
    "chat_template of a number": lambda t: t.model.chat_template(5),
    "chat_template with NUL": lambda t: t.model.chat_template("a\0b"),
    "context of a number": lambda t: t.model.context(5),
    "add_embd to tokens": lambda t: t.batch.add_embd([1.0], 0),
    "add to embeddings": lambda t: t.embd.add(1, 0),
    "add_tokens to embeddings": lambda t: t.embd.add_tokens([1]),
    "add_embd of another width": lambda t: t.embd.add_embd([1, 2], 0),
    "add_embd of text": lambda t: t.embd.add_embd("abcd", 0),
    "add_embd of complex numbers": lambda t: t.embd.add_embd([1j] * 4, 0),
    "add_embd with three positions": lambda t: t.embd.add_embd([1, 2, 3, 4], (0, 1, 2)),
    "add to no sequence": lambda t: t.batch.add(5, 3, ()),
    "add to three sequences": lambda t: t.batch.add(5, 3, (0, 1, 0)),
    "add to a number": lambda t: t.batch.add(5, 3, 0),
    "tokens of embeddings": lambda t: t.embd.tokens,
    "embeddings of tokens": lambda t: t.batch.embd,
    "advance without rows": lambda t: lc.Batch(1).advance([5]),
    "advance out of range": lambda t: t.batch.advance([2**40] * len(t.batch)),
    "a full batch": lambda t: [t.batch.add(5, pos) for pos in range(20)],
}


def wrong(token: int = 5, pos: int = 3, seq_id: int = 0) -> lc.Batch:
    """A batch of one row that is wrong in one way."""
    batch = lc.Batch(1)
    batch.add(token, pos, (seq_id,))
    return batch
