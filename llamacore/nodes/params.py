"""What the nodes can be told: parameters with their names, aliases and defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InvalidArgumentError
from ..sampling import SamplingParams
from .data import DEFAULT_CHANNEL
from .reading import Params, choice, flag, invalid, real, text, whole

if TYPE_CHECKING:
    from ..engine.speculation.params import Mtp
    from ..params import GpuLayers

_SAMPLERS = ("penalties", "min_p", "top_k", "top_p", "temperature")
_POOLINGS = {"mean": "mean", "last_token": "last", "first_token": "first", "cls": "cls"}
_CHOICES = ("auto", "none", "required")


@dataclass(frozen=True)
class BackendParams(Params):
    """Where and how a model is computed.

    Attributes:
        numa: Spread threads over the nodes of a NUMA machine.
        gpu_offload: "none", "all", or `{"layers": N}`.
        flash_attention: Use flash attention; false leaves it to upstream's default.
        threads: Threads for single tokens; None for the number of physical cores.
        threads_batch: Threads for prompts; None for the same.
    """

    numa: bool = False
    gpu_offload: str | Mapping[str, int] = "none"
    flash_attention: bool = False
    threads: int | None = None
    threads_batch: int | None = None

    def __post_init__(self) -> None:
        flag("numa", self.numa)
        flag("flash_attention", self.flash_attention)
        for name in ("threads", "threads_batch"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1, 1024)
        offload = self.gpu_offload
        if isinstance(offload, Mapping) and list(offload) == ["layers"]:
            whole("gpu_offload.layers", offload["layers"], 0, 2**16 - 1)
        elif offload not in ("none", "all"):
            raise invalid(f"gpu_offload={offload!r}", 'give "none", "all" or {"layers": N}')

    @property
    def n_gpu_layers(self) -> GpuLayers:
        """Layers to keep in device memory: 0 for "none", so that nothing is left to upstream's default."""
        if isinstance(self.gpu_offload, Mapping):
            return self.gpu_offload["layers"]
        return "all" if self.gpu_offload == "all" else 0


@dataclass(frozen=True)
class ActivationTap(Params):
    """Activations that a `GenerationNode` gives beside its text.

    Attributes:
        layer: The layer whose output is taken.
        every_n_tokens: Generated tokens from one to the next; 0 for that of the prompt alone.
    """

    layer: int = 15
    every_n_tokens: int = 32

    def __post_init__(self) -> None:
        whole("layer", self.layer, 0)
        whole("every_n_tokens", self.every_n_tokens, 0)


@dataclass(frozen=True)
class MtpParams(Params):
    """Drafting with the model's own next-token-prediction layers.

    Attributes:
        enabled: Whether to.
        n_max: Most tokens of a draft.
        n_min: Drafts of fewer tokens are not used.
        p_min: A draft ends before a token that is less likely than this.
    """

    enabled: bool = False
    n_max: int = 1
    n_min: int = 0
    p_min: float = 0.0

    def __post_init__(self) -> None:
        flag("enabled", self.enabled)
        try:
            self.speculative()
        except InvalidArgumentError as exc:
            raise invalid(exc.message, exc.hint) from None

    def speculative(self) -> Mtp:
        """As `Llama` takes it."""
        from ..engine.speculation.params import Mtp

        return Mtp(n_max=self.n_max, n_min=self.n_min, p_min=self.p_min)


@dataclass(frozen=True)
class GenerationNodeParams(Params):
    """Parameters of `GenerationNode`.

    Attributes:
        model_path: A GGUF file; "demo" for the demo model of the package.
        backend: Where and how it is computed.
        context_size: Tokens of context (`n_ctx`), which the turns that run at a time share.
        batch_size: Most tokens of a prompt that are submitted at a time (`n_batch`). Prompts may be longer.
        n_parallel: Turns that are generated at a time; further ones wait.
        max_tokens: Most tokens of one answer of the model.
        temperature: Divides the logits; 0 chooses the most likely token.
        top_p: Keep the most likely tokens that together reach this probability.
        top_k: Keep this many of the most likely tokens; 0 for all.
        min_p: Keep tokens at least this many times as likely as the most likely one; 0 for all.
        repeat_penalty: The last 64 tokens become less likely by this factor; 1 for none.
        system_prompt: What every session begins with.
        seed: Seed of every turn; 0 for a random one each time.
        activation_tap: Give activations as well, `{"layer": 15, "every_n_tokens": 32}`.
        tools: Tools that the model may call, beside `say` and `show`: `{"name", "description", "parameters", "kind",
            "cancelable"}`, or the name of one that the node knows, such as "perform_motion".
        active_tools: Names of the tools that are offered; None for all, an empty list for none.
        tool_choice: "auto", "none", "required", or a certain tool as in the OpenAI API.
        stream_arguments: Give the text of `say` and `show` while the model writes it, not when the call is complete:
            of a call that is cut off, what was written so far.
        mtp: Drafting with the model's own layers for it.
        history_turns: Earlier turns of the user that the model gets to see; None for as many as have room.
        output_channel: The channel of the text.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"n_ctx": "context_size", "n_batch": "batch_size"}
    NESTED: ClassVar[Mapping[str, type[Params]]] = {
        "backend": BackendParams, "activation_tap": ActivationTap, "mtp": MtpParams,
    }  # fmt: skip

    model_path: str = ""
    backend: BackendParams = field(default_factory=BackendParams)
    context_size: int = 4096
    batch_size: int = 512
    n_parallel: int = 4
    max_tokens: int = 256
    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.0
    repeat_penalty: float = 1.1
    system_prompt: str | None = None
    seed: int = 0
    activation_tap: ActivationTap | None = None
    tools: Sequence[Any] = ()
    active_tools: Sequence[str] | None = None
    tool_choice: Any = None
    stream_arguments: bool = False
    mtp: MtpParams = field(default_factory=MtpParams)
    history_turns: int | None = None
    output_channel: str = DEFAULT_CHANNEL

    def __post_init__(self) -> None:
        self._require_blocks()
        text("model_path", self.model_path, empty=False)
        for name in ("context_size", "batch_size", "max_tokens"):
            whole(name, getattr(self, name), 1)
        whole("n_parallel", self.n_parallel, 1, 256)
        whole("top_k", self.top_k, 0)
        whole("seed", self.seed, 0, 2**32 - 1)
        real("temperature", self.temperature, 0)
        for name in ("top_p", "min_p", "repeat_penalty"):
            real(name, getattr(self, name), 0)
        text("system_prompt", self.system_prompt, or_none=True)
        flag("stream_arguments", self.stream_arguments)
        text("output_channel", self.output_channel, empty=False)
        if self.history_turns is not None:
            whole("history_turns", self.history_turns, 0)
        for name in ("tools", "active_tools"):
            listed = getattr(self, name)
            if not (isinstance(listed, (list, tuple)) or (listed is None and name == "active_tools")):
                raise invalid(f"{name}={listed!r}", "give a list")
        for tool in self.active_tools or ():
            text("a name of active_tools", tool, empty=False)
        asked = self.tool_choice
        if not (asked is None or asked in _CHOICES or isinstance(asked, Mapping)):
            raise invalid(f"tool_choice={asked!r}", "use one of " + ", ".join(_CHOICES))
        try:
            self.sampling()
        except InvalidArgumentError as exc:
            raise invalid(exc.message, exc.hint) from None

    def sampling(self) -> SamplingParams:
        """How tokens are chosen."""
        return SamplingParams(
            seed=self.seed or None, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p,
            penalty_repeat=self.repeat_penalty, penalty_last_n=64, samplers=_SAMPLERS,
        )  # fmt: skip


@dataclass(frozen=True)
class EmbeddingNodeParams(Params):
    """Parameters of `EmbeddingNode`.

    Attributes:
        model_path: A GGUF file; "demo" for the demo model of the package.
        backend: Where and how it is computed.
        context_size: Most tokens of a text.
        batch_size: Tokens that are computed at a time.
        pooling: How the vectors of tokens become one: "mean", "last_token", "first_token" or "cls".
        l2_normalize: Give the vector the length 1 (`normalize`).
    """

    ALIASES: ClassVar[Mapping[str, str]] = {"normalize": "l2_normalize"}
    NESTED: ClassVar[Mapping[str, type[Params]]] = {"backend": BackendParams}

    model_path: str = ""
    backend: BackendParams = field(default_factory=BackendParams)
    context_size: int = 512
    batch_size: int = 256
    pooling: str = "mean"
    l2_normalize: bool = True

    def __post_init__(self) -> None:
        self._require_blocks()
        text("model_path", self.model_path, empty=False)
        whole("context_size", self.context_size, 1)
        whole("batch_size", self.batch_size, 1)
        choice("pooling", self.pooling, tuple(_POOLINGS))
        flag("l2_normalize", self.l2_normalize)

    @property
    def engine_pooling(self) -> Any:
        """The pooling as `Embedder` calls it."""
        return _POOLINGS[self.pooling]
