"""`Llama`: a model, a context and a sampler behind one object; what most people meet first."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chat.template import ChatTemplate, Message, control_texts, protect, tokenize
from .core.model import Model, Progress
from .engine.generation import Completion, Generation, GenerationParams, SingleSequence
from .engine.text import PieceTable
from .errors import BusyError
from .hub import demo_model_path
from .params import ContextParams, FlashAttn, GpuLayers, ModelParams, StrPath, merge
from .sampling import SamplingParams

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .sampling import SamplingOptions

Prompt = str | Sequence[int]

_DEFAULT_N_CTX = 4096


class Llama:
    """A model that generates text, one request at a time.

    Args:
        model: A GGUF file, a `Model` (which stays the caller's to close), or None for the demo model of the package.
        n_ctx: Tokens of context; None for what the model was trained with, but at most 4096.
        n_batch: Most tokens of a prompt submitted at a time.
        n_ubatch: Most tokens computed at a time.
        n_threads: Threads for single tokens; None for the number of physical cores.
        n_threads_batch: Threads for prompts; None for the same.
        n_gpu_layers: Layers in device memory, "all" or "none"; None for upstream's default.
        flash_attn: "auto", "enabled" or "disabled".
        type_k: Data type of the K cache.
        type_v: Data type of the V cache.
        chat_template: jinja2 source to use instead of the model's own template.
        model_params: Everything else about loading.
        context_params: Everything else about the context.
        progress: Called with the share that is loaded; returning False cancels.

    Raises:
        ModelLoadError: The model could not be loaded.
        ContextError: The context could not be created.
    """

    def __init__(
        self,
        model: StrPath | Model | None = None,
        *,
        n_ctx: int | None = None,
        n_batch: int | None = None,
        n_ubatch: int | None = None,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        n_gpu_layers: GpuLayers | None = None,
        flash_attn: FlashAttn | None = None,
        type_k: str | None = None,
        type_v: str | None = None,
        chat_template: str | None = None,
        model_params: ModelParams | None = None,
        context_params: ContextParams | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._owns_model = not isinstance(model, Model)
        if isinstance(model, Model):
            self.model = model
        else:
            params = merge(model_params or ModelParams(), _given(n_gpu_layers=n_gpu_layers))
            self.model = Model.load(model if model is not None else demo_model_path(), params, progress=progress)
        try:
            defaults = ContextParams(n_ctx=min(self.model.n_ctx_train, _DEFAULT_N_CTX), n_outputs_max=1)
            given = _given(
                n_ctx=n_ctx, n_batch=n_batch, n_ubatch=n_ubatch, n_threads=n_threads, n_threads_batch=n_threads_batch,
                flash_attn=flash_attn, type_k=type_k, type_v=type_v,
            )  # fmt: skip
            self.context = self.model.context(merge(context_params or defaults, given))
        except BaseException:
            if self._owns_model:
                self.model.close()
            raise
        self._pieces = PieceTable(self.model.vocab)
        self._chat_template_source = chat_template
        self._template: ChatTemplate | None = None
        self._controls: list[str] | None = None
        self._lock = threading.Lock()
        self._running: weakref.ref[Generation] | None = None

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
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        logprobs: int | None = None,
        special: bool = False,
        add_special: bool = True,
        parse_special: bool = False,
        sampling: SamplingParams | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Generation:
        """Generate text as it comes.

        Args:
            prompt: Text, or token ids that are used as they are.
            max_tokens: Most tokens to generate; None for as many as fit into the context.
            stop: Strings at which to stop; they are not part of the text.
            logprobs: Report log-probabilities, with this many alternatives for each token.
            special: Write control tokens as text.
            add_special: Let the model's own BOS and EOS be added to a text prompt.
            parse_special: Read control tokens written in a text prompt as such.
            sampling: How tokens are chosen; None for what the model file recommends, else upstream's defaults.
            **options: Fields of `SamplingParams`, put over `sampling`.

        Returns:
            The running generation: iterate it for `Chunk`s (`async for` works too). It holds the context until it is
            exhausted, closed or dropped.

        Raises:
            BusyError: Another generation of this object has not ended.
            InvalidArgumentError: The prompt is empty or longer than the context, or an option is wrong.
        """
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        params = GenerationParams(max_tokens, stops, logprobs, special)
        chosen = SamplingParams.for_model(self.model, **options) if sampling is None else merge(sampling, options)
        if isinstance(prompt, (str, bytes)):
            tokens = self.tokenize(prompt, add_special=add_special, parse_special=parse_special)
        else:
            tokens = list(prompt)
        with self._lock:
            running = self._running() if self._running is not None else None
            if running is not None:
                raise BusyError(
                    "this Llama is generating already",
                    hint="exhaust, close or cancel that generation first, or make another",
                )
            self.context.resume()
            sampler = chosen.chain(self.model)
            try:
                sequence = SingleSequence(
                    self.context, sampler, tokens, params,
                    model_name=self.name, pieces=self._pieces, on_end=self._release,
                )  # fmt: skip
            except BaseException:
                sampler.close()
                raise
            generation = Generation(sequence)
            self._running = weakref.ref(generation)
        return generation

    def _release(self) -> None:
        self._running = None

    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        stop: str | Sequence[str] = (),
        logprobs: int | None = None,
        special: bool = False,
        add_special: bool = True,
        parse_special: bool = False,
        sampling: SamplingParams | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Completion:
        """Generate text and return all of it; the arguments are those of `stream`."""
        generation = self.stream(
            prompt, max_tokens=max_tokens, stop=stop, logprobs=logprobs, special=special, add_special=add_special,
            parse_special=parse_special, sampling=sampling, **options,
        )  # fmt: skip
        try:
            return generation.result()
        finally:
            generation.close()

    def chat_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
    ) -> list[int]:
        """Write a conversation as the model's chat template does, as tokens for `generate` or `stream`.

        Control tokens that a user or a tool wrote into a message stay plain text.

        Args:
            messages: Each with "role" and "content".
            tools: Tool definitions in the OpenAI API's form.
            add_generation_prompt: Open the assistant's turn at the end.
            enable_thinking: For templates that know it; None for the template's own default.

        Raises:
            UnsupportedError: The model has no chat template.
            TemplateError: The template refuses the conversation.
        """
        if self._template is None:
            self._template = ChatTemplate.of(self.model, self._chat_template_source)
            self._controls = control_texts(self.model.vocab)
        foreign = ("user", "tool")
        safe = [protect(m, self._controls or ()) if m.get("role") in foreign else m for m in messages]
        prompt = self._template.render(
            safe, tools=tools, add_generation_prompt=add_generation_prompt, enable_thinking=enable_thinking
        )
        # templates write BOS themselves where a model wants one
        return tokenize(self.model.vocab, prompt, add_special=self._template.bos_token not in prompt[:64])

    def close(self) -> None:
        """Free the context, and the model if it was loaded here. Calling it again does nothing."""
        self.context.close()
        if self._owns_model:
            self.model.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self.context.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Llama {self.name}{' (closed)' if self.closed else ''}>"


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
