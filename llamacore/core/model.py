"""A loaded model: weights, vocabulary and metadata, shared by every context made from it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .. import gguf
from ..errors import InvalidArgumentError, LoadCancelledError, ModelLoadError, ModelNotFoundError, UnsupportedError
from ..params import ContextParams, ModelParams, StrPath, merge
from . import _enums, backend, log
from ._handle import SharedHandle, unowned_call
from ._model_params import native_model_params
from ._native import ffi, lib, path_bytes, text
from ._status import raise_status
from .metadata import Metadata, read_metadata, read_string
from .sampler_checks import utf8
from .splits import all_parts
from .vocab import Vocab

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..params import ContextOptions, ModelOptions
    from .context import Context

Progress = Callable[[float], bool | None]


class _ProgressState:
    def __init__(self, callback: Progress) -> None:
        self.callback = callback
        self.error: BaseException | None = None
        self.cancelled = False


@ffi.def_extern(name="llamacore_on_progress", error=False)  # type: ignore[untyped-decorator]
def _on_progress(progress: float, user_data: Any) -> bool:
    state: _ProgressState = ffi.from_handle(user_data)
    try:
        state.cancelled = state.callback(progress) is False
    except BaseException as exc:  # KeyboardInterrupt too: handed on once C has cleaned up
        state.error = exc
        return False
    return not state.cancelled


class Model(SharedHandle):
    """A loaded model. Made by `Model.load`; safe to use from several threads at once.

    Contexts, adapters and samplers made from it keep it alive; `close()` closes them first and gives the memory back
    before it returns.
    """

    def __init__(
        self, ptr: Any, params: ModelParams, paths: tuple[str, ...], keep: tuple[Any, ...], n_pos_table: int | None
    ) -> None:
        super().__init__(ptr, lib.llama_model_free, keep=keep)
        self.params = params
        self.paths = paths
        self._vocab_ptr = lib.llama_model_get_vocab(ptr)
        self._n_vocab = int(lib.llama_vocab_n_tokens(self._vocab_ptr))
        self._vocab_type = _enums.name("vocab_type", int(lib.llama_vocab_type(self._vocab_ptr)))
        self._vocab: Callable[[], Vocab | None] = lambda: None
        self._metadata: Metadata | None = None
        self._n_pos_table = n_pos_table  # positions that it has learned embeddings for; None when it computes them

    @classmethod
    def load(
        cls,
        path: StrPath | Sequence[StrPath],
        params: ModelParams | None = None,
        *,
        progress: Progress | None = None,
        **options: Unpack[ModelOptions],
    ) -> Model:
        """Load a GGUF file (upstream: `llama_model_load_from_file`, `llama_model_load_from_splits`).

        Args:
            path: The file; the first of several when they are named `...-00001-of-00003.gguf`; or the list of all
                parts in order, under any names.
            params: How to load it.
            progress: Called with the share done, 0.0 to 1.0; returning False cancels. What it raises is raised here.
            **options: Fields of `ModelParams`, put over `params`.

        Returns:
            The model; the caller closes it (or uses it in a `with` block, or drops it).

        Raises:
            ModelNotFoundError: There is no such file.
            InvalidModelError: The file is damaged or not a GGUF model.
            ModelLoadError: llama.cpp could not load it; the native log says why.
            LoadCancelledError: `progress` returned False.
            InvalidArgumentError: An option is wrong.
            OutOfMemoryError: The native code ran out of memory.
        """
        params = merge(params or ModelParams(), options)
        paths = tuple(os.fspath(item) for item in ([path] if isinstance(path, (str, os.PathLike)) else path))
        if not paths:
            raise InvalidArgumentError("there is no file to load", hint="give at least one path")
        what = f"loading {paths[0]}"
        n_pos_table = None
        for item in all_parts(paths):
            if not os.path.exists(item):
                raise ModelNotFoundError(f"{what}: there is no file {item}", hint="check the path")
            if not os.path.isfile(item):
                raise ModelNotFoundError(
                    f"{what}: {item} is a folder or a device", hint="give the path of a .gguf file"
                )
            table = gguf.check(item, params.kv_overrides).tensors.get("position_embd.weight")
            n_pos_table = n_pos_table if table is None else table.shape[1]
        backend.init()
        native, keep = native_model_params(params)
        names = [ffi.new("char[]", path_bytes(item)) for item in paths]
        state = _ProgressState(progress) if progress is not None else None
        if state is not None:
            handle = ffi.new_handle(state)
            native.progress_callback = lib.llamacore_on_progress
            native.progress_callback_user_data = handle
        out = ffi.new("struct llama_model **")
        mark = log.mark()
        with unowned_call():
            status = lib.llc_model_load(names, len(names), native, out)
        if state is not None and state.error is not None:
            if status == lib.LLC_OK:  # raised in the very last call, which upstream does not ask
                lib.llama_model_free(out[0])
            raise state.error
        if status != lib.LLC_OK:
            if state is not None and state.cancelled:
                raise LoadCancelledError(f"{what}: cancelled by the progress callback")
            raise_status(
                status, what, ModelLoadError, mark=mark, hint="the file may need a newer llama.cpp, or be damaged"
            )
        log.drain()
        return cls(out[0], params, paths, (native, *keep), n_pos_table)

    @property
    def vocab(self) -> Vocab:
        """The vocabulary."""
        vocab = self._vocab()
        if vocab is None:  # held weakly: a cycle would keep the weights of a dropped model until the collector runs
            vocab = Vocab(self, self._vocab_ptr, self._n_vocab, self._vocab_type)
            self._vocab = weakref.ref(vocab)
        return vocab

    def context(self, params: ContextParams | None = None, **options: Unpack[ContextOptions]) -> Context:
        """Create a context for this model (upstream: `llama_init_from_model`).

        Args:
            params: What it should be.
            **options: Fields of `ContextParams`, put over `params`.

        Returns:
            The context, a child of this model; the caller closes it.

        Raises:
            ContextError: llama.cpp could not create it; the native log says why.
            InvalidArgumentError: An option is wrong.
            OutOfMemoryError: Its memory does not fit.
        """
        from .context import Context

        return Context._create(self, merge(params or ContextParams(), options))

    def save(self, path: StrPath) -> None:
        """Write the model as one GGUF file (upstream: `llama_model_save_to_file`), made aside and renamed.

        Raises:
            UnsupportedError: It was loaded without weights, or upstream cannot write all of this architecture.
            ModelLoadError: Writing failed.
        """
        target = os.fspath(path)
        what = f"saving the model to {target}"
        if self.params.vocab_only or self.params.no_alloc:
            raise UnsupportedError(f"{what}: it was loaded without its weights", hint="load it with them")
        aside = f"{target}.{os.getpid()}.part"
        ptr = self._enter()
        try:
            mark = log.mark()
            status = lib.llc_model_save(ptr, path_bytes(aside))
            if status == lib.LLC_ABORTED:
                raise UnsupportedError(f"{what}: {text(lib.llc_last_error())}", hint="copy the file instead")
            if status != lib.LLC_OK or not os.path.exists(aside):
                raise_status(status, what, ModelLoadError, mark=mark)
            if sum(tensor.n_elements for tensor in gguf.read(aside).tensors.values()) != lib.llama_model_n_params(ptr):
                raise UnsupportedError(f"{what}: llama.cpp left tensors out", hint="copy the file instead")
            try:
                os.replace(aside, target)
            except OSError as exc:
                raise ModelLoadError(f"{what}: {exc.strerror}", hint="give the path of a file") from exc
        finally:
            self._exit()
            if os.path.exists(aside):
                os.unlink(aside)

    def _query(self, function: Callable[[Any], Any]) -> Any:
        ptr = self._enter()
        try:
            return function(ptr)
        finally:
            self._exit()

    @property
    def metadata(self) -> Metadata:
        """All scalar metadata of the file, overrides applied."""
        if self._metadata is None:
            self._metadata = self._query(
                lambda ptr: read_metadata(
                    int(lib.llama_model_meta_count(ptr)),
                    lambda i, buf, n: int(lib.llama_model_meta_key_by_index(ptr, i, buf, n)),
                    lambda i, buf, n: int(lib.llama_model_meta_val_str_by_index(ptr, i, buf, n)),
                )
            )
        return self._metadata

    @property
    def arch(self) -> str:
        """Name of the architecture (`general.architecture`)."""
        return self.metadata.get("general.architecture", "")

    @property
    def desc(self) -> str:
        """Upstream's one-line description: architecture, size and quantisation."""
        return read_string(lambda buf, n: int(self._query(lambda p: lib.llama_model_desc(p, buf, n)))) or ""

    @property
    def ftype(self) -> str:
        """Name of the file type (quantisation)."""
        return text(lib.llama_ftype_name(self._query(lib.llama_model_ftype)))

    @property
    def size(self) -> int:
        """Size of all tensors in bytes."""
        return int(self._query(lib.llama_model_size))

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return int(self._query(lib.llama_model_n_params))

    @property
    def n_ctx_train(self) -> int:
        """Context length the model was trained with; upstream changes it for a context with YaRN scaling of its own."""
        return int(self._query(lib.llama_model_n_ctx_train))

    @property
    def n_vocab(self) -> int:
        """Number of tokens in the vocabulary."""
        return self._n_vocab

    @property
    def n_embd(self) -> int:
        """Width of the residual stream."""
        return int(self._query(lib.llama_model_n_embd))

    @property
    def n_embd_inp(self) -> int:
        """Width of an input embedding, as `Batch(n_embd=...)` takes it."""
        return int(self._query(lib.llama_model_n_embd_inp))

    @property
    def n_embd_out(self) -> int:
        """Width of an output embedding."""
        return int(self._query(lib.llama_model_n_embd_out))

    @property
    def n_layer(self) -> int:
        """Number of layers, without the next-token-prediction ones."""
        return int(self._query(lib.llama_model_n_layer))

    @property
    def n_layer_nextn(self) -> int:
        """Number of next-token-prediction (MTP) layers."""
        return int(self._query(lib.llama_model_n_layer_nextn))

    @property
    def n_head(self) -> int:
        """Number of attention heads."""
        return int(self._query(lib.llama_model_n_head))

    @property
    def n_head_kv(self) -> int:
        """Number of key/value heads."""
        return int(self._query(lib.llama_model_n_head_kv))

    @property
    def n_swa(self) -> int:
        """Size of the sliding attention window in tokens, 0 for none."""
        return int(self._query(lib.llama_model_n_swa))

    @property
    def n_expert(self) -> int:
        """Number of experts of a mixture, 0 for none."""
        return int(self._query(lib.llc_model_n_expert))

    @property
    def rope_type(self) -> str:
        """Kind of rotary position embedding: none, norm, neox, mrope, imrope or vision."""
        return _enums.name("rope_type", int(self._query(lib.llama_model_rope_type)))

    @property
    def rope_freq_scale_train(self) -> float:
        """RoPE frequency scale the model was trained with."""
        return float(self._query(lib.llama_model_rope_freq_scale_train))

    @property
    def has_encoder(self) -> bool:
        """Whether `Context.encode` must be called before decoding."""
        return bool(self._query(lib.llama_model_has_encoder))

    @property
    def has_decoder(self) -> bool:
        """Whether the model can decode."""
        return bool(self._query(lib.llama_model_has_decoder))

    @property
    def decoder_start_token(self) -> int | None:
        """Token that starts the decoder of an encoder-decoder model."""
        token = int(self._query(lib.llama_model_decoder_start_token))
        return None if token < 0 else token

    @property
    def is_recurrent(self) -> bool:
        """Whether all memory is recurrent state (Mamba, RWKV)."""
        return bool(self._query(lib.llama_model_is_recurrent))

    @property
    def is_hybrid(self) -> bool:
        """Whether recurrent and attention layers are mixed."""
        return bool(self._query(lib.llama_model_is_hybrid))

    @property
    def is_diffusion(self) -> bool:
        """Whether the model writes by diffusion."""
        return bool(self._query(lib.llama_model_is_diffusion))

    @property
    def cls_labels(self) -> list[str]:
        """Labels of a classifier's outputs, empty strings where the file names none."""

        def read(ptr: Any) -> list[str]:
            return [text(lib.llama_model_cls_label(ptr, i)) for i in range(lib.llama_model_n_cls_out(ptr))]

        labels: list[str] = self._query(read)
        return labels

    @property
    def devices(self) -> list[backend.Device]:
        """Devices that hold layers, in upstream's order; empty when all is in host memory."""

        def read(ptr: Any) -> list[backend.Device]:
            handles = [lib.llc_model_device(ptr, i) for i in range(lib.llc_model_n_devices(ptr))]
            return [backend.describe_device(handle) for handle in handles]

        found: list[backend.Device] = self._query(read)
        return found

    def chat_template(self, name: str | None = None) -> str | None:
        """Return the chat template that the file carries, the default one or the one called `name`."""
        key = ffi.NULL if name is None else ffi.new("char[]", utf8("the name of a chat template", name))

        def read(ptr: Any) -> str | None:
            pointer = lib.llama_model_chat_template(ptr, key)
            return None if pointer == ffi.NULL else text(pointer)

        template: str | None = self._query(read)
        return template

    def __repr__(self) -> str:
        return f"<Model {self.paths[0]}{' (closed)' if self.closed else ''}>"
