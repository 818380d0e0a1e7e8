"""The `qwen35` network in PyTorch: gated delta net layers, gated attention layers and one NextN (MTP) block.

The arithmetic follows the graphs of the pinned llama.cpp (`src/models/qwen35.cpp` and `delta-net-base.cpp`), so that
one set of weights gives the same logits in both. Parameters carry the names and the layouts of the GGUF file: norm
weights multiply as they are, heads of values are tiled over the heads of keys (value head `h` reads key head
`h % n_head_k`), and `ssm_a_log` is the one tensor that the export transforms (to `-exp(ssm_a_log)`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the network; the defaults are the bundled demo model.

    Attributes:
        n_vocab: Rows of the token embedding, which is also the output matrix.
        n_embd: Width of the residual stream.
        n_layer: Trunk layers, without the MTP block.
        full_attention_interval: Every so-many-th layer is full attention, the others are gated delta nets.
        n_ff: Width of the gated feed-forward.
        n_head: Query heads of the attention layers.
        n_head_kv: Key and value heads of the attention layers.
        head_dim: Size of an attention head.
        n_rot: Leading dimensions of a head that rotary embedding turns.
        rope_base: Base of the rotary frequencies.
        ssm_d_state: Size of one key head and of one value head of the delta net.
        ssm_n_group: Key (and query) heads of the delta net.
        ssm_dt_rank: Value heads of the delta net, a multiple of `ssm_n_group`.
        ssm_d_conv: Taps of the causal convolution over queries, keys and values.
        rms_eps: Epsilon of every norm.
        n_ctx: Longest window seen in training.
    """

    n_vocab: int = 1536
    n_embd: int = 192
    n_layer: int = 6
    full_attention_interval: int = 3
    n_ff: int = 512
    n_head: int = 3
    n_head_kv: int = 1
    head_dim: int = 64
    n_rot: int = 16
    rope_base: float = 10000.0
    ssm_d_state: int = 32
    ssm_n_group: int = 3
    ssm_dt_rank: int = 6
    ssm_d_conv: int = 4
    rms_eps: float = 1e-6
    n_ctx: int = 2048

    @property
    def key_dim(self) -> int:
        """Width of all delta-net keys of a token."""
        return self.ssm_d_state * self.ssm_n_group

    @property
    def value_dim(self) -> int:
        """Width of all delta-net values of a token."""
        return self.ssm_d_state * self.ssm_dt_rank

    @property
    def conv_dim(self) -> int:
        """Channels of the causal convolution."""
        return 2 * self.key_dim + self.value_dim

    @property
    def rope_sections(self) -> list[int]:
        """The `n_rot / 2` rotary pairs dealt in turn to the three position axes; the fourth axis gets none."""
        pairs = self.n_rot // 2
        return [(pairs + 2) // 3, (pairs + 1) // 3, pairs // 3, 0]

    def is_recurrent(self, layer: int) -> bool:
        """Whether trunk layer `layer` is a gated delta net."""
        return (layer + 1) % self.full_attention_interval != 0


@torch.autocast("cpu", enabled=False)
def chunked_delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, chunk: int = 32) -> Tensor:
    """The gated delta rule over whole sequences, a chunk at a time (parallel inside each chunk).

    Args:
        q: Queries `[B, H, T, D]`, already normalised; scaled here by `1 / sqrt(D)`.
        k: Keys `[B, H, T, D]`, normalised.
        v: Values `[B, H, T, D]`.
        g: Log of the decay of each token, `[B, H, T]`, at most 0.
        beta: Writing strength of each token, `[B, H, T]`, in (0, 1).
        chunk: Tokens per chunk; a power of two.

    Returns:
        Tensor: Outputs `[B, H, T, D]`, equal to `recurrent_delta_rule` up to rounding.
    """
    n_batch, n_head, n_tok, dim = q.shape
    pad = -n_tok % chunk
    if pad:
        q, k, v = (F.pad(x, (0, 0, 0, pad)) for x in (q, k, v))
        g, beta = F.pad(g, (0, pad)), F.pad(beta, (0, pad))
    n_chunk = (n_tok + pad) // chunk
    shape = (n_batch * n_head, n_chunk, chunk, dim)
    q = (q * dim**-0.5).reshape(shape)
    k, v = k.reshape(shape), v.reshape(shape)
    beta = beta.reshape((*shape[:3], 1))
    g_cum = g.reshape(shape[:3]).cumsum(-1)

    lower = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).tril()
    # the exponent is masked before exp, so that no overflow above the diagonal reaches the gradient
    decay = (g_cum.unsqueeze(-1) - g_cum.unsqueeze(-2)).masked_fill(~lower, -torch.inf).exp()
    k_beta = k * beta
    rise = g_cum.exp().unsqueeze(-1)
    # substitution, not powers of the matrix: those grow beyond all precision where the keys of a chunk are alike
    system = (k_beta @ k.transpose(-1, -2)) * decay
    right = torch.cat((v * beta, k_beta * rise), -1)
    solved = torch.linalg.solve_triangular(system.tril(-1), right, upper=False, unitriangular=True)
    v_new, k_decayed = solved.split(dim, -1)
    inside = (q @ k.transpose(-1, -2)) * decay
    q_decayed = q * rise
    k_tail = (k * (g_cum[..., -1:] - g_cum).exp().unsqueeze(-1)).transpose(-1, -2)
    last = g_cum[..., -1].exp()[..., None, None]

    state = q.new_zeros(n_batch * n_head, dim, dim)
    outputs = []
    for i in range(n_chunk):
        fresh = v_new[:, i] - k_decayed[:, i] @ state
        outputs.append(q_decayed[:, i] @ state + inside[:, i] @ fresh)
        state = state * last[:, i] + k_tail[:, i] @ fresh
    out = torch.stack(outputs, 1).reshape(n_batch, n_head, n_chunk * chunk, dim)
    return out[:, :, :n_tok]


def recurrent_delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """The gated delta rule one token after the other: the definition that the chunked form is checked against.

    Args and returns as for `chunked_delta_rule`.
    """
    n_batch, n_head, n_tok, dim = q.shape
    q = q * dim**-0.5
    state = q.new_zeros(n_batch, n_head, dim, dim)
    outputs = []
    for t in range(n_tok):
        state = state * g[:, :, t].exp()[..., None, None]
        read = (k[:, :, t].unsqueeze(-2) @ state).squeeze(-2)
        delta = (v[:, :, t] - read) * beta[:, :, t].unsqueeze(-1)
        state = state + k[:, :, t].unsqueeze(-1) * delta.unsqueeze(-2)
        outputs.append((q[:, :, t].unsqueeze(-2) @ state).squeeze(-2))
    return torch.stack(outputs, 2)


def rotary(config: ModelConfig, n_tok: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[T, n_rot / 2]` of positions 0 to `n_tok - 1`.

    On text the three position axes of the interleaved multi-axis rotary embedding are equal: it is the plain one.
    """
    half = config.n_rot // 2
    freq = config.rope_base ** (-torch.arange(half, dtype=torch.float64) * 2.0 / config.n_rot)
    angle = torch.arange(n_tok, dtype=torch.float64)[:, None] * freq
    return angle.cos().float(), angle.sin().float()


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the first `n_rot` dimensions of `x` `[B, H, T, D]`, pairing dimension `i` with `i + n_rot / 2`."""
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), -1)


class Linear(nn.Linear):
    """A bias-free linear map, as every matrix of the architecture is."""

    def __init__(self, n_in: int, n_out: int, std: float) -> None:
        super().__init__(n_in, n_out, bias=False)
        nn.init.normal_(self.weight, std=std)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension with a multiplying weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Norms `x` over its last dimension."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class FeedForward(nn.Module):
    """SiLU-gated feed-forward."""

    def __init__(self, config: ModelConfig, out_std: float) -> None:
        super().__init__()
        self.ffn_gate = Linear(config.n_embd, config.n_ff, 0.02)
        self.ffn_up = Linear(config.n_embd, config.n_ff, 0.02)
        self.ffn_down = Linear(config.n_ff, config.n_embd, out_std)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[..., n_embd]` to the same shape."""
        return self.ffn_down(F.silu(self.ffn_gate(x)) * self.ffn_up(x))


class Attention(nn.Module):
    """Full attention with normed queries and keys, partial rotary embedding and a sigmoid gate per output."""

    def __init__(self, config: ModelConfig, out_std: float) -> None:
        super().__init__()
        self.config = config
        kv_dim = config.head_dim * config.n_head_kv
        self.attn_q = Linear(config.n_embd, config.head_dim * config.n_head * 2, 0.02)
        self.attn_k = Linear(config.n_embd, kv_dim, 0.02)
        self.attn_v = Linear(config.n_embd, kv_dim, 0.02)
        self.attn_output = Linear(config.head_dim * config.n_head, config.n_embd, out_std)
        self.attn_q_norm = RMSNorm(config.head_dim, config.rms_eps)
        self.attn_k_norm = RMSNorm(config.head_dim, config.rms_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Mixes `[B, T, n_embd]` over the tokens up to each one; `cos` and `sin` come from `rotary`."""
        c = self.config
        n_batch, n_tok, _ = x.shape
        # each query head is followed by its gate in the rows of attn_q
        q, gate = self.attn_q(x).view(n_batch, n_tok, c.n_head, 2 * c.head_dim).split(c.head_dim, -1)
        k = self.attn_k(x).view(n_batch, n_tok, c.n_head_kv, c.head_dim)
        v = self.attn_v(x).view(n_batch, n_tok, c.n_head_kv, c.head_dim)
        q = apply_rotary(self.attn_q_norm(q).transpose(1, 2), cos, sin)
        k = apply_rotary(self.attn_k_norm(k).transpose(1, 2), cos, sin)
        out = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=True, enable_gqa=True)
        out = out.transpose(1, 2) * torch.sigmoid(gate)
        return self.attn_output(out.reshape(n_batch, n_tok, -1))


class GatedDeltaNet(nn.Module):
    """Linear attention whose state is decayed by a gate and corrected by the delta rule."""

    def __init__(self, config: ModelConfig, out_std: float) -> None:
        super().__init__()
        self.config = config
        self.attn_qkv = Linear(config.n_embd, config.conv_dim, 0.02)
        self.attn_gate = Linear(config.n_embd, config.value_dim, 0.02)
        self.ssm_beta = Linear(config.n_embd, config.ssm_dt_rank, 0.02)
        self.ssm_alpha = Linear(config.n_embd, config.ssm_dt_rank, 0.02)
        self.ssm_out = Linear(config.value_dim, config.n_embd, out_std)
        self.ssm_conv1d = nn.Parameter(torch.randn(config.conv_dim, config.ssm_d_conv) * 0.3)
        # heads start with memories from a few tokens to a few hundred
        step = torch.exp(torch.linspace(math.log(0.002), math.log(0.1), config.ssm_dt_rank))
        self.ssm_dt = nn.Parameter(step + torch.log(-torch.expm1(-step)))
        self.ssm_a_log = nn.Parameter(torch.linspace(0.0, math.log(4.0), config.ssm_dt_rank))
        self.ssm_norm = RMSNorm(config.ssm_d_state, config.rms_eps)

    def forward(self, x: Tensor, recurrent: bool = False) -> Tensor:
        """Mixes `[B, T, n_embd]` over the tokens up to each one, from an empty state."""
        c = self.config
        n_batch, n_tok, _ = x.shape
        mixed = self.attn_qkv(x).transpose(1, 2)
        mixed = F.conv1d(
            F.pad(mixed, (c.ssm_d_conv - 1, 0)), self.ssm_conv1d.to(mixed.dtype).unsqueeze(1), groups=c.conv_dim
        )
        mixed = F.silu(mixed).view(n_batch, -1, c.ssm_d_state, n_tok).transpose(2, 3)
        q, k, v = mixed.float().split((c.ssm_n_group, c.ssm_n_group, c.ssm_dt_rank), 1)
        q = q * torch.rsqrt(q.square().sum(-1, keepdim=True) + c.rms_eps)
        k = k * torch.rsqrt(k.square().sum(-1, keepdim=True) + c.rms_eps)
        tile = c.ssm_dt_rank // c.ssm_n_group
        q, k = q.repeat(1, tile, 1, 1), k.repeat(1, tile, 1, 1)
        beta = torch.sigmoid(self.ssm_beta(x).float()).transpose(1, 2)
        g = (F.softplus(self.ssm_alpha(x).float() + self.ssm_dt) * -torch.exp(self.ssm_a_log)).transpose(1, 2)
        rule = recurrent_delta_rule if recurrent else chunked_delta_rule
        out = self.ssm_norm(rule(q, k, v, g, beta).transpose(1, 2))
        out = out.reshape(n_batch, n_tok, -1) * F.silu(self.attn_gate(x).float())
        return self.ssm_out(out.to(x.dtype))


class Block(nn.Module):
    """One decoder layer: a token mixer and a feed-forward, each normed before and added to the stream."""

    def __init__(self, config: ModelConfig, recurrent: bool) -> None:
        super().__init__()
        out_std = 0.02 / math.sqrt(2 * config.n_layer)
        self.attn_norm = RMSNorm(config.n_embd, config.rms_eps)
        self.post_attention_norm = RMSNorm(config.n_embd, config.rms_eps)
        self.mixer: GatedDeltaNet | Attention
        self.mixer = GatedDeltaNet(config, out_std) if recurrent else Attention(config, out_std)
        self.ffn = FeedForward(config, out_std)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, recurrent: bool = False) -> Tensor:
        """Maps the stream `[B, T, n_embd]` to the stream after this layer."""
        normed = self.attn_norm(x)
        if isinstance(self.mixer, GatedDeltaNet):
            x = x + self.mixer(normed, recurrent)
        else:
            x = x + self.mixer(normed, cos, sin)
        return x + self.ffn(self.post_attention_norm(x))


class MtpBlock(nn.Module):
    """The NextN block: from the trunk's state of a token and the embedding of the next, the state of the next."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.enorm = RMSNorm(config.n_embd, config.rms_eps)
        self.hnorm = RMSNorm(config.n_embd, config.rms_eps)
        self.eh_proj = Linear(2 * config.n_embd, config.n_embd, 0.02)
        self.block = Block(config, recurrent=False)
        self.shared_head_norm = RMSNorm(config.n_embd, config.rms_eps)

    def forward(self, embedded: Tensor, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """States `[B, T, n_embd]` from embeddings and from the states one token before them."""
        x = self.eh_proj(torch.cat((self.enorm(embedded), self.hnorm(hidden)), -1))
        return self.shared_head_norm(self.block(x, cos, sin))


class Model(nn.Module):
    """The whole network: tied embedding, trunk, output norm and the MTP block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.n_vocab, config.n_embd)
        nn.init.normal_(self.token_embd.weight, std=0.02)
        self.layers = nn.ModuleList(Block(config, config.is_recurrent(i)) for i in range(config.n_layer))
        self.output_norm = RMSNorm(config.n_embd, config.rms_eps)
        self.mtp = MtpBlock(config)

    def states(self, tokens: Tensor, recurrent: bool = False, n_draft: int = 1) -> list[Tensor]:
        """Final states of the trunk and of the MTP block.

        Args:
            tokens: Token ids `[B, T]`, positions counted from 0.
            recurrent: Use the token-by-token delta rule instead of the chunked one.
            n_draft: How often the MTP block runs, each time on its own last states.

        Returns:
            list[Tensor]: `1 + n_draft` tensors `[B, T, n_embd]`. Row `t` of each predicts token `t + 1`: of the
            first from the tokens up to `t`; of the second from trunk states up to `t - 1` and the embeddings up to
            `t`, as the draft graph of llama.cpp computes it (its first row has a zero state); of each further one from
            the states before it in the same way, as in the second and later steps of a draft.
        """
        cos, sin = rotary(self.config, tokens.shape[1])
        embedded = self.token_embd(tokens)
        x = embedded
        for layer in self.layers:
            x = layer(x, cos, sin, recurrent)
        states = [self.output_norm(x)]
        for _ in range(n_draft):
            states.append(self.mtp(embedded, F.pad(states[-1][:, :-1], (0, 0, 1, 0)), cos, sin))
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Logits `[..., n_vocab]` of states of the trunk or of the MTP block."""
        return F.linear(states, self.token_embd.weight)

    def forward(self, tokens: Tensor, mtp_weight: float, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training losses of a window.

        Args:
            tokens: Token ids `[B, T + 1]`.
            mtp_weight: Weight of the mean of the losses of two runs of the MTP block; at 0 the block does not run.
            weight: How much each token counts when it is predicted, `[B, T + 1]`.

        Returns:
            tuple[Tensor, Tensor, Tensor]: The sum to minimise, the trunk's loss and the loss of the MTP block's first
            run, 0 when it did not run (nats per token).
        """
        n_draft = 2 if mtp_weight else 0
        target, share = tokens[:, 1:].flatten(), weight[:, 1:].flatten() / weight[:, 1:].sum()
        trunk, *drafts = (
            F.cross_entropy(self.logits(states).flatten(0, 1).float(), target, reduction="none") @ share
            for states in self.states(tokens[:, :-1], n_draft=n_draft)
        )
        if not drafts:
            return trunk, trunk.detach(), torch.zeros(())
        return trunk + mtp_weight * (drafts[0] + drafts[1]) / 2, trunk.detach(), drafts[0].detach()
