"""What everything that `Llama` does stands on: the model, the engine, and text in and out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..core.fit import Fit, FitParams
from ..core.model import Model, Progress
from ..core.tap import LayerTap
from ..engine.engine import Engine, EngineParams
from ..engine.generation import Generation
from ..engine.records import Completion
from ..engine.request import GenerationParams, Request
from ..engine.speculation.opening import can_draft, open_drafter, target_params
from ..engine.speculation.params import Mtp, Speculative, choose
from ..errors import InvalidArgumentError, UnsupportedError
from ..hub import demo_model_path
from ..openai.constructor import translate
from ..params import ContextParams, FlashAttn, GpuLayers, ModelParams, StrPath, merge
from ..sampling import SamplingParams
from ._fitting import aim_of, open_context, plan, with_servers
from ._options import GenerateOptions, split

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ..core.adapters import LoraAdapter
    from ..core.context import Context
    from ..openai.constructor import LlamaCppArguments

Prompt = str | Sequence[int]

_DEFAULT_N_CTX = 4096
_DEFAULT_N_PARALLEL = 4
_NUMBERS = (int, float, bool, type(None))


class LlamaBase:
    """A model that generates text, for several requests at a time, from any thread or event loop.

    Args:
        model: A GGUF file, a `Model` (which stays the caller's to close), or None for the demo model of the package.
        n_ctx: Tokens of context, which the requests that run at a time share; None for what the model was trained with,
            but at most 4096.
        n_parallel: Texts that are generated at a time; further requests wait for their turn.
        n_batch: Most tokens of a prompt submitted at a time.
        n_ubatch: Most tokens computed at a time.
        n_threads: Threads for single tokens; None for the number of physical cores.
        n_threads_batch: Threads for prompts; None for the same.
        n_gpu_layers: Layers in device memory, "all" or "none"; None for upstream's default.
        devices: Names of the devices to use, see `backend.devices()`; None for all GPUs, an empty list for the CPU.
        rpc: RPC servers ("host:port") whose devices are used too, see `core.rpc`.
        fit: Make model and context fit into the memory that is free: True or a `FitParams` also chooses `n_ctx` where
            none is given, and halves it while memory runs out; None only chooses how many layers go to the devices, and
            only where there is a device and nothing was said about layers; False for neither. See `Llama.fit`.
        flash_attn: "auto", "enabled" or "disabled".
        type_k: Data type of the K cache.
        type_v: Data type of the V cache.
        chat_template: jinja2 source to use instead of the model's own template.
        speculative: How tokens are drafted, for more speed and the same text: `Mtp()`, `DraftModel(model=...)`,
            `Ngram()`, or "auto" for MTP where the file has the layers for it, else n-grams; None for none.
        taps: Let requests steer and read activations, see `steering` and `activation_layers` of `GenerateOptions`.
        model_params: Everything else about loading.
        context_params: Everything else about the context.
        engine_params: The queue and the prefix cache.
        progress: Called with the share that is loaded; returning False cancels.
        **llama_cpp: Arguments of llama-cpp-python's `Llama`, see `LlamaCppArguments`; `seed` is that of every call that
            gives none.

    Raises:
        InvalidArgumentError: An argument is unknown or wrong.
        UnsupportedError: An argument of llama-cpp-python that cannot be honoured.
        ModelLoadError: The model could not be loaded.
        ContextError: The context could not be created.
        OutOfMemoryError: It does not fit into memory.
        RpcError: A server of `rpc` cannot be reached, or was lost meanwhile.
    """

    def __init__(
        self,
        model: StrPath | Model | None = None,
        *,
        n_ctx: int | None = None,
        n_parallel: int | None = None,
        n_batch: int | None = None,
        n_ubatch: int | None = None,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        n_gpu_layers: GpuLayers | None = None,
        devices: Sequence[str] | None = None,
        rpc: Sequence[str] | None = None,
        fit: bool | FitParams | None = None,
        flash_attn: FlashAttn | bool | None = None,
        type_k: str | int | None = None,
        type_v: str | int | None = None,
        chat_template: str | None = None,
        speculative: Speculative | Literal["auto"] | None = None,
        taps: bool = False,
        model_params: ModelParams | None = None,
        context_params: ContextParams | None = None,
        engine_params: EngineParams | None = None,
        progress: Progress | None = None,
        **llama_cpp: Unpack[LlamaCppArguments],
    ) -> None:
        own = {
            "model": model, "chat_template": chat_template, "flash_attn": flash_attn, "type_k": type_k,
            "type_v": type_v, "n_ctx": n_ctx, "n_parallel": n_parallel, "n_batch": n_batch, "n_ubatch": n_ubatch,
            "n_threads": n_threads, "n_threads_batch": n_threads_batch, "n_gpu_layers": n_gpu_layers,
            "devices": devices, "rpc": rpc, "fit": fit, "speculative": speculative, "taps": taps,
            "model_params": model_params, "context_params": context_params, "engine_params": engine_params,
            "progress": progress,
        }  # fmt: skip
        asked = translate(llama_cpp, own)
        model = asked.llama["model"]
        self._owns_model = not isinstance(model, Model)
        self._last_chosen: tuple[tuple[Any, ...], SamplingParams] | None = None
        self._fit: Fit | None = None
        self._aim = aim_of(fit)
        given = _given(
            n_ctx=n_ctx, n_batch=n_batch, n_ubatch=n_ubatch, n_threads=n_threads, n_threads_batch=n_threads_batch,
            flash_attn=asked.llama["flash_attn"], type_k=asked.llama["type_k"], type_v=asked.llama["type_v"],
            n_seq_max=n_parallel, n_outputs_max=n_parallel, capture=LayerTap() if taps else None,
        )  # fmt: skip
        n_seq = _DEFAULT_N_PARALLEL if n_parallel is None else n_parallel
        defaults = ContextParams(n_seq_max=n_seq, n_outputs_max=n_seq, kv_unified=True)
        wanted = merge(context_params or defaults, {**asked.context, **given})
        if isinstance(model, Model):
            if devices is not None or rpc is not None or self._aim is not None:
                raise InvalidArgumentError(
                    "Llama: devices, rpc or fit for a model that is loaded already", hint="give them to Model.load"
                )
            self.model = model
        else:
            wants_mtp = speculative == "auto" or (isinstance(speculative, Mtp) and speculative.model is None)
            params = merge(
                model_params or ModelParams(load_mtp=wants_mtp or None),
                {**asked.model, **_given(n_gpu_layers=n_gpu_layers, devices=devices)},
            )
            path = model if model is not None else demo_model_path()
            params = with_servers(params, rpc)
            self._fit = plan(path, fit, params, wanted, speculative, _DEFAULT_N_CTX)
            if self._fit is not None:
                params = self._fit.model_params
                if self._aim is not None:
                    wanted = self._fit.context_params
            self.model = Model.load(path, params, progress=progress)
        try:
            if wanted.n_ctx is None and context_params is None:
                wanted = merge(wanted, {"n_ctx": min(self.model.n_ctx_train, _DEFAULT_N_CTX)})
            self._open(wanted, engine_params, speculative)
        except BaseException:
            if self._owns_model:
                self.model.close()
            raise
        self._loras: dict[LoraAdapter, float] = {}
        self._chat_template_source: str | None = asked.llama["chat_template"]
        self._seed = asked.seed

    def _open(
        self,
        params: ContextParams,
        engine_params: EngineParams | None,
        speculative: Speculative | Literal["auto"] | None,
    ) -> None:
        """Make the context and, unless the model has an encoder, the engine with what drafts for it."""
        model = self.model
        way = choose(speculative, has_mtp=bool(model.n_layer_nextn and model.params.load_mtp))
        with contextlib.ExitStack() as opened:
            self._context = open_context(model, params if way is None else target_params(params, model, way), self._aim)
            opened.callback(self._context.close)
            self._engine: Engine | None = None
            if self._context.memory.present and not model.has_encoder:
                if speculative == "auto" and not can_draft(self._context):
                    way = None
                drafter = None if way is None else open_drafter(self._context, way)
                if drafter is not None:
                    opened.callback(drafter.close)
                self._engine = Engine(self._context, engine_params, drafter=drafter, model_name=self.name)
            elif way is not None:
                raise UnsupportedError(
                    f"{self.name} generates nothing that could be drafted", hint="leave speculative out"
                )
            opened.pop_all()

    @property
    def engine(self) -> Engine:
        """What generates.

        Raises:
            UnsupportedError: The model has an encoder: it embeds and ranks, but generates nothing here.
        """
        if self._engine is None:
            raise UnsupportedError(
                f"{self.name} has an encoder and does not generate text here",
                hint="use embed() or rerank(), or Context.encode() and decode() for translation models",
            )
        return self._engine

    @property
    def context(self) -> Context:
        """The engine's context; only the engine computes with it, see `Engine.call`."""
        return self._context

    @property
    def fit(self) -> Fit | None:
        """How the model was made to fit into memory when it was loaded; None where that was not asked for."""
        return self._fit

    @property
    def name(self) -> str:
        """Name of the model: the stem of its file."""
        return Path(self.model.paths[0]).stem

    def tokenize(self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Turn text into tokens; see `Vocab.tokenize`."""
        return self.model.vocab.tokenize(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int], *, remove_special: bool = False, unparse_special: bool = True) -> str:
        """Turn tokens into text; see `Vocab.detokenize`."""
        return self.model.vocab.detokenize(tokens, remove_special=remove_special, unparse_special=unparse_special)

    def stream(
        self, prompt: Prompt, *, n: int = 1, sampling: SamplingParams | None = None, **options: Unpack[GenerateOptions]
    ) -> Generation:
        """Generate text as it comes.

        Args:
            prompt: Text, or token ids that are used as they are.
            n: Samples of the prompt, which is computed once; their chunks have an `index`.
            sampling: How tokens are chosen; None for what the model file recommends, else upstream's defaults.
            **options: See `GenerateOptions`; the fields of `SamplingParams` are put over `sampling`.

        Returns:
            The running generation: iterate it for `Chunk`s (`async for` works too). Dropping it cancels it.

        Raises:
            InvalidArgumentError: The prompt is empty, or an option is wrong or unknown.
            ContextFullError: The prompt is longer than the context.
            QueueFullError: Too many requests wait already.
        """
        return self._submit(prompt, n, True, sampling, options)

    def generate(
        self, prompt: Prompt, *, sampling: SamplingParams | None = None, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """Generate text and return all of it.

        Args:
            prompt: Text, or token ids that are used as they are.
            sampling: How tokens are chosen; None for what the model file recommends, else upstream's defaults.
            **options: See `GenerateOptions`; the fields of `SamplingParams` are put over `sampling`.

        Raises:
            LlamaCoreError: What `stream` raises of a request, and `Generation.result` of what ended it.
        """
        return self._submit(prompt, 1, False, sampling, options).result()

    async def agenerate(
        self, prompt: Prompt, *, sampling: SamplingParams | None = None, **options: Unpack[GenerateOptions]
    ) -> Completion:
        """`generate` for event loops: cancelling the task cancels the generation.

        Args:
            prompt: See `generate`.
            sampling: See `generate`.
            **options: See `GenerateOptions`.
        """
        return await self._submit(prompt, 1, False, sampling, options).aresult()

    def samples(
        self, prompt: Prompt, n: int, *, sampling: SamplingParams | None = None, **options: Unpack[GenerateOptions]
    ) -> list[Completion]:
        """Generate several texts from one prompt, which is computed once.

        Args:
            prompt: See `generate`.
            n: How many; their seeds follow one another.
            sampling: See `generate`.
            **options: See `GenerateOptions`.

        Raises:
            LlamaCoreError: What `generate` raises.
        """
        return self._submit(prompt, n, False, sampling, options).results()

    async def asamples(
        self, prompt: Prompt, n: int, *, sampling: SamplingParams | None = None, **options: Unpack[GenerateOptions]
    ) -> list[Completion]:
        """`samples` for event loops: cancelling the task cancels all of them.

        Args:
            prompt: See `generate`.
            n: See `samples`.
            sampling: See `generate`.
            **options: See `GenerateOptions`.
        """
        return await self._submit(prompt, n, False, sampling, options).aresults()

    def _submit(
        self, prompt: Prompt, n: int, stream: bool, sampling: SamplingParams | None, options: GenerateOptions
    ) -> Generation:
        if sampling is not None and not isinstance(sampling, SamplingParams):
            raise InvalidArgumentError(f"sampling={sampling!r}", hint="give a SamplingParams")
        if not isinstance(prompt, Iterable):
            raise InvalidArgumentError(f"a {type(prompt).__name__} is no prompt", hint="give a text or token ids")
        ending, tokenizing, choosing = split(options)
        if self._seed is not None and (sampling is None or sampling.seed is None):
            choosing.setdefault("seed", self._seed)
        params = GenerationParams(**{"loras": self._loras, **ending}, n=n, stream=stream)
        chosen = self._recommended(choosing) if sampling is None else merge(sampling, choosing)
        tokens = self.tokenize(prompt, **tokenizing) if isinstance(prompt, (str, bytes)) else list(prompt)
        return self.engine.submit(Request(tokens, chosen, params))

    def _recommended(self, choosing: dict[str, Any]) -> SamplingParams:
        """What the model file recommends with some options over it: for the same numbers once more the same object."""
        asked = tuple((name, type(value), value) for name, value in choosing.items())
        last = self._last_chosen
        if last is not None and last[0] == asked:
            return last[1]
        chosen = SamplingParams.for_model(self.model, **choosing)
        if all(kind in _NUMBERS for _, kind, _ in asked):  # what else there is may be changed by its owner
            self._last_chosen = asked, chosen
        return chosen

    def warmup(self) -> None:
        """Compute one token and forget it, so that the first request does not pay for page faults."""
        self.generate([self.model.vocab.bos or 0], max_tokens=1, cache_prompt=False)

    async def awarmup(self) -> None:
        """`warmup` for event loops."""
        await self.agenerate([self.model.vocab.bos or 0], max_tokens=1, cache_prompt=False)

    def close(self) -> None:
        """End what is running; free the context, and the model if it was loaded here. Doing it again does nothing."""
        if self._engine is not None:
            self._engine.close()
        self._context.close()
        if self._owns_model:
            self.model.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._context.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Llama {self.name}{' (closed)' if self.closed else ''}>"


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
