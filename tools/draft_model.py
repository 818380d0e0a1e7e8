"""The small `qwen3` network that drafts for the demo model, in PyTorch: two layers of plain attention.

The arithmetic follows `src/models/qwen3.cpp` of the pinned llama.cpp; parameters carry the names of the GGUF file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tools.model import FeedForward, Linear, RMSNorm, apply_rotary, rotary


@dataclass(frozen=True)
class DraftConfig:
    """Shape of the network; the defaults are the bundled draft model. The fields mean what they do in `ModelConfig`."""

    n_vocab: int = 1536
    n_embd: int = 128
    n_layer: int = 2
    n_ff: int = 384
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 32
    rope_base: float = 10000.0
    rms_eps: float = 1e-6
    n_ctx: int = 2048

    @property
    def n_rot(self) -> int:
        """Rotary embedding turns whole heads."""
        return self.head_dim


class DraftBlock(nn.Module):
    """One decoder layer: attention with normed queries and keys, and a gated feed-forward."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.config = config
        out_std = 0.02 / math.sqrt(2 * config.n_layer)
        q_dim, kv_dim = config.head_dim * config.n_head, config.head_dim * config.n_head_kv
        self.attn_norm = RMSNorm(config.n_embd, config.rms_eps)
        self.attn_q = Linear(config.n_embd, q_dim, 0.02)
        self.attn_k = Linear(config.n_embd, kv_dim, 0.02)
        self.attn_v = Linear(config.n_embd, kv_dim, 0.02)
        self.attn_q_norm = RMSNorm(config.head_dim, config.rms_eps)
        self.attn_k_norm = RMSNorm(config.head_dim, config.rms_eps)
        self.attn_output = Linear(q_dim, config.n_embd, out_std)
        self.ffn_norm = RMSNorm(config.n_embd, config.rms_eps)
        self.ffn = FeedForward(config, out_std)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Maps the stream `[B, T, n_embd]` to the stream after this layer."""
        c, normed = self.config, self.attn_norm(x)
        heads = (
            part(normed).unflatten(-1, (-1, c.head_dim)).transpose(1, 2)
            for part in (self.attn_q, self.attn_k, self.attn_v)
        )
        q, k, v = heads
        q, k = apply_rotary(self.attn_q_norm(q), cos, sin), apply_rotary(self.attn_k_norm(k), cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.attn_output(mixed.transpose(1, 2).flatten(2))
        return x + self.ffn(self.ffn_norm(x))


class DraftModel(nn.Module):
    """The whole network: tied embedding, layers and output norm."""

    def __init__(self, config: DraftConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.n_vocab, config.n_embd)
        nn.init.normal_(self.token_embd.weight, std=0.02)
        self.layers = nn.ModuleList(DraftBlock(config) for _ in range(config.n_layer))
        self.output_norm = RMSNorm(config.n_embd, config.rms_eps)

    def logits(self, tokens: Tensor) -> Tensor:
        """Logits `[B, T, n_vocab]` of token ids `[B, T]`; row `t` is of token `t + 1`."""
        cos, sin = rotary(self.config, tokens.shape[1])
        x = self.token_embd(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.output_norm(x), self.token_embd.weight)
