"""Images and audio in a prompt: the projector of a multimodal model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from ..errors import (
    AbortedError,
    DecodeError,
    InvalidArgumentError,
    LoadCancelledError,
    ModelLoadError,
    NativeError,
    OutOfRangeError,
    UnsupportedError,
)
from ..params import StrPath, merge
from . import log
from . import multimodal_checks as checks
from ._handle import Handle
from ._native import ffi, lib, path_bytes, text
from ._status import raise_status
from .bitmap import Bitmap, using
from .chunks import Chunk, Chunks
from .model import Progress, _ProgressState
from .multimodal_params import MultimodalParams, native_params
from .projector_file import check_projector

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from .context import Context
    from .model import Model
    from .multimodal_params import MultimodalOptions

Part: TypeAlias = "str | Bitmap"

_INT32_MAX = 2**31 - 1


def default_marker() -> str:
    """Return the text that stands for an image or a sound in a prompt unless `media_marker` says otherwise."""
    return text(lib.mtmd_default_marker())


class MultimodalContext(Handle):
    """The projector of a multimodal model: turns images and audio into embeddings. Used by one thread at a time.

    Made by `MultimodalContext.load`; a child of its model, which it keeps alive and which closes it.

    Attributes:
        model: The text model.
        n_embd: Width of the embeddings, the model's `n_embd_inp`.
        marker: Text that stands for an image or a sound in a prompt.
        supports_vision: Whether it takes images.
        supports_audio: Whether it takes audio.
        supports_video: Whether it takes the frames of a `Video`; needs ffmpeg.
        audio_sample_rate: Samples per second that it takes, None without audio.
        uses_mrope: Whether positions are M-RoPE's.
    """

    def __init__(self, ptr: Any, model: Model, params: MultimodalParams, path: str) -> None:
        self.model = model
        self.params = params
        self.path = path
        self.n_embd = model.n_embd_inp
        self.marker = text(lib.mtmd_get_marker(ptr))
        self.supports_vision = bool(lib.mtmd_support_vision(ptr))
        self.supports_audio = bool(lib.mtmd_support_audio(ptr))
        self.supports_video = bool(lib.mtmd_helper_support_video(ptr))
        rate = int(lib.mtmd_get_audio_sample_rate(ptr))
        self.audio_sample_rate = rate if rate > 0 else None
        self.uses_mrope = bool(lib.mtmd_decode_use_mrope(ptr))
        super().__init__(ptr, lib.mtmd_free, parent=model)

    @classmethod
    def load(
        cls,
        path: StrPath,
        model: Model,
        params: MultimodalParams | None = None,
        *,
        progress: Progress | None = None,
        **options: Unpack[MultimodalOptions],
    ) -> MultimodalContext:
        """Load a projector file (mmproj) for a model (upstream: `mtmd_init_from_file`).

        Args:
            path: The GGUF file.
            model: The text model that it was made for.
            params: How to load it.
            progress: Called with the share done, 0.0 to 1.0; returning False cancels. What it raises is raised here.
            **options: Fields of `MultimodalParams`, put over `params`.

        Raises:
            ModelNotFoundError: There is no such file.
            InvalidModelError: It is damaged, or no projector.
            ModelLoadError: It does not fit the model, or llama.cpp could not load it; the native log says why.
            LoadCancelledError: `progress` returned False.
            UnsupportedError: The model was loaded without weights.
            InvalidArgumentError: An option is wrong.
        """
        params = merge(params or MultimodalParams(), options)
        name = os.fspath(path)
        what = f"loading {name}"
        if model.params.vocab_only:
            raise UnsupportedError(f"{what}: the model was loaded with vocab_only", hint="load it without vocab_only")
        check_projector(path)
        native, keep = native_params(params)
        state = _ProgressState(progress) if progress is not None else None
        if state is not None:
            handle = ffi.new_handle(state)
            keep.append(handle)
            native.progress_callback = lib.llamacore_on_progress
            native.progress_callback_user_data = handle
        out = ffi.new("struct mtmd_context **")
        with using(model) as (model_ptr,):
            mark = log.mark()
            status = lib.llc_mtmd_load(path_bytes(name), model_ptr, native, out)
            if state is not None and state.error is not None:
                if status == lib.LLC_OK:  # raised in the very last call, which upstream does not ask
                    lib.mtmd_free(out[0])
                raise state.error
            if status != lib.LLC_OK:
                if state is not None and state.cancelled:
                    raise LoadCancelledError(f"{what}: cancelled by the progress callback")
                hint = f"it must be made for this model, which takes embeddings of width {model.n_embd_inp}"
                raise_status(status, what, ModelLoadError, mark=mark, hint=hint)
            log.drain()
            return cls(out[0], model, params, name)

    def uses_non_causal(self, chunk: Chunk | None = None) -> bool:
        """Whether a chunk is decoded without causal attention; for an image when `chunk` is None."""
        chunks = [] if chunk is None else [chunk]
        with using(self, *(item._chunks for item in chunks)) as (mtmd, *_):
            return bool(lib.mtmd_decode_use_non_causal(mtmd, _pointers(chunks)[0] if chunks else ffi.NULL))

    # tokenizing

    def tokenize(
        self,
        prompt: str | Sequence[Part],
        bitmaps: Sequence[Bitmap] = (),
        *,
        add_special: bool = True,
        parse_special: bool = True,
    ) -> Chunks:
        """Turn a prompt into chunks (upstream: `mtmd_tokenize`, `mtmd_tokenize_from_parts`).

        Args:
            prompt: Text with one `marker` for each bitmap; or texts and bitmaps in order, where a marker in a text
                means nothing.
            bitmaps: What the markers of a text stand for, in order.
            add_special: Add BOS and EOS where the model wants them.
            parse_special: Read control tokens written in the text as such.

        Returns:
            The chunks, a child of this object; the caller closes them or drops them.

        Raises:
            InvalidArgumentError: There are more or fewer markers than bitmaps, or a bitmap cannot be taken.
            UnsupportedError: The model has no tokenizer, takes no images or no audio, or its vocabulary lacks tokens
                that the projector puts around images.
        """
        self.model.vocab._require_tokenizer()
        parts = self._split(prompt, bitmaps) if isinstance(prompt, str) else list(prompt)
        if not isinstance(prompt, str) and bitmaps:
            raise InvalidArgumentError("bitmaps beside a prompt of parts", hint="put the bitmaps among the parts")
        for part in parts:
            if not isinstance(part, (str, Bitmap)):
                raise InvalidArgumentError(f"a prompt with a {type(part).__name__}", hint="give texts and Bitmaps")
        used = [part for part in parts if isinstance(part, Bitmap)]
        for bitmap in used:
            if not (self.supports_audio if bitmap.kind == "audio" else self.supports_vision):
                kind = "audio" if bitmap.kind == "audio" else "images"
                raise UnsupportedError(f"this projector takes no {kind}", hint="ask supports_vision and supports_audio")
            if bitmap.kind == "audio" and bitmap.n_samples < 2:
                raise InvalidArgumentError(f"a sound of {bitmap.n_samples} samples", hint="it must have at least two")
        with using(self, *used) as (mtmd, *pointers):
            remaining = iter(pointers)
            rows = ffi.new("struct mtmd_input_part[]", max(len(parts), 1))
            keep: list[Any] = []
            for row, part in zip(rows, parts, strict=False):
                if isinstance(part, Bitmap):
                    row.bitmap = next(remaining)
                    continue
                raw = _utf8(part)
                words = ffi.new("struct mtmd_input_text *", {"text": ffi.from_buffer(raw), "text_len": len(raw)})
                words.parse_special = parse_special
                keep.append((raw, words))
                row.text = words
            refs = [rows + i for i in range(len(parts))]
            out = ffi.new("struct mtmd_input_chunks **")
            mark = log.mark()
            status = lib.llc_mtmd_tokenize(mtmd, refs, len(refs), add_special, out)
            if status != lib.LLC_OK:
                error = InvalidArgumentError if status == lib.LLC_FAILED else NativeError
                raise_status(status, f"tokenizing a prompt with {len(used)} bitmaps", error, mark=mark)
            chunks = Chunks(out[0], self)
        n_vocab = self.model.n_vocab
        if any(not 0 <= token < n_vocab for chunk in chunks for token in chunk.tokens):
            chunks.close()
            raise UnsupportedError(
                "the vocabulary of the model lacks tokens that this projector puts around images",
                hint="use the mmproj file that comes with the model",
            )
        return chunks

    def _split(self, prompt: str, bitmaps: Sequence[Bitmap]) -> list[Part]:
        texts = prompt.split(self.marker)
        if len(texts) - 1 != len(bitmaps):
            raise InvalidArgumentError(
                f"the prompt has {len(texts) - 1} markers {self.marker!r} and there are {len(bitmaps)} bitmaps",
                hint="write one marker for each bitmap, or pass texts and bitmaps as parts",
            )
        parts: list[Part] = [texts[0]]
        for bitmap, words in zip(bitmaps, texts[1:], strict=True):
            parts += [bitmap, words]
        return [part for part in parts if part != ""]

    # encoding and decoding

    def encode(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        """Compute the embeddings of image or audio chunks, several at a time where the projector can.

        Returns:
            For each chunk float32 [n_tokens, n_embd], which `eval_chunk` takes.

        Raises:
            InvalidArgumentError: A chunk is text or belongs to another object.
            DecodeError: It failed, for instance for a placeholder; the native log says why.
        """
        checks.check_chunks(self, chunks, media_only=True)
        if not chunks:
            return []
        with using(self, *{chunk._chunks for chunk in chunks}) as (mtmd, *_):
            return self._encode(mtmd, chunks)

    def eval_chunks(
        self,
        ctx: Context,
        chunks: Chunks,
        n_past: int = 0,
        *,
        seq_id: int = 0,
        n_batch: int | None = None,
        logits_last: bool = True,
    ) -> int:
        """Encode the media of a prompt and decode all of it (upstream: `mtmd_helper_eval_chunks`).

        Args:
            ctx: A context of the same model; its memory must end before `n_past`.
            chunks: The prompt.
            n_past: Position of its first token.
            seq_id: Sequence it is decoded in.
            n_batch: Most tokens per decode; None for the context's.
            logits_last: Compute the logits of the last token; the last chunk must be text then.

        Returns:
            The position after it: `n_past` plus the positions of all chunks.

        Raises:
            InvalidArgumentError: The chunks or the context belong elsewhere, or a number is wrong; nothing was done.
            NoKvSlotError: The memory has no room for all of it; what was decoded before stays there.
            AbortedError: `ctx.cancel()` was called.
            DecodeError: It failed otherwise.
        """
        return self._eval(ctx, list(chunks), n_past, seq_id, n_batch, logits_last, None)

    def eval_chunk(
        self,
        ctx: Context,
        chunk: Chunk,
        n_past: int = 0,
        *,
        seq_id: int = 0,
        n_batch: int | None = None,
        logits_last: bool = False,
        embeddings: NDArray[np.float32] | None = None,
    ) -> int:
        """Decode one chunk; see `eval_chunks`.

        Args:
            ctx: A context of the same model.
            chunk: The chunk.
            n_past: Position of its first token.
            seq_id: Sequence it is decoded in.
            n_batch: Most tokens per decode; None for the context's.
            logits_last: Compute the logits of the last token; for text only.
            embeddings: What `encode` returned for it, float32 [n_tokens, n_embd]; None to encode it now.

        Returns:
            The position after it.
        """
        return self._eval(ctx, [chunk], n_past, seq_id, n_batch, logits_last, embeddings)

    def _eval(
        self,
        ctx: Context,
        chunks: Sequence[Chunk],
        n_past: int,
        seq_id: int,
        n_batch: int | None,
        logits_last: bool,
        embeddings: NDArray[np.float32] | None,
    ) -> int:
        n_batch = ctx.n_batch if n_batch is None else n_batch
        checks.check_context(self.model, ctx, seq_id, n_batch)
        checks.check_chunks(self, chunks)
        if ctx._embeddings:  # every row is an output then
            n_batch = min(n_batch, ctx._n_outputs_max)
        end = n_past + sum(chunk.n_pos for chunk in chunks)
        limit = self.model._n_pos_table or _INT32_MAX
        if not 0 <= n_past <= end <= limit:
            raise OutOfRangeError(f"positions {n_past!r} to {end - 1}", hint=f"they are 0 to {limit - 1} here")
        if logits_last and chunks and chunks[-1].type != "text":
            raise InvalidArgumentError(
                f"the prompt ends with an {chunks[-1].type}, which has no logits",
                hint="end it with text, or pass logits_last=False",
            )
        if embeddings is not None:
            embeddings = checks.check_embeddings(self.n_embd, chunks[0], embeddings)
        position = ffi.new("llama_pos *", n_past)
        with using(self, ctx, *{chunk._chunks for chunk in chunks}) as (mtmd, lctx, *_):
            natives = _pointers(chunks)
            checks.check_non_causal(
                ctx, chunks, [lib.mtmd_decode_use_non_causal(mtmd, ptr) for ptr in natives], n_batch
            )
            for i, (chunk, native) in enumerate(zip(chunks, natives, strict=True)):
                rows = embeddings
                if rows is None and chunk.type != "text":
                    if ctx.cancelled:  # an encoder cannot be stopped, so it is not started
                        raise AbortedError("encoding: cancelled", hint="what was computed is still in the memory")
                    (rows,) = self._encode(mtmd, [chunk])
                logits = logits_last and i == len(chunks) - 1
                status = self._decode(ctx, (mtmd, lctx, native), rows, position, (seq_id, n_batch, logits))
                if status != lib.LLC_OK:
                    ctx._raise_compute(status, "decoding", chunk.n_tokens)
                ctx._inner_values_computed((chunk.n_tokens - 1) % n_batch + 1)  # rows of the last decode
                ctx._logits_computed = True
                ctx._embd_computed = ctx.pooling_type == "none" and ctx._embeddings
        return int(position[0])

    def _decode(
        self,
        ctx: Context,
        pointers: tuple[Any, Any, Any],
        rows: NDArray[np.float32] | None,
        position: Any,
        numbers: tuple[int, int, bool],
    ) -> int:
        data = ffi.NULL if rows is None else ffi.from_buffer("float[]", rows)
        capture = ctx.params.capture
        if capture is None:
            with ctx._pools.lock:
                return int(lib.llc_mtmd_decode(*pointers, data, position[0], *numbers, position, ctx._code))
        with using(capture), ctx._pools.lock:
            capture._begin(ffi.NULL)
            status = int(lib.llc_mtmd_decode(*pointers, data, position[0], *numbers, position, ctx._code))
        if status == lib.LLC_OK:
            capture._require_complete()
        return status

    def _encode(self, mtmd: Any, chunks: Sequence[Chunk]) -> list[NDArray[np.float32]]:
        import numpy as np

        n_rows = [chunk.n_tokens for chunk in chunks]
        rows = np.empty((sum(n_rows), self.n_embd), dtype=np.float32)
        mark = log.mark()
        status = lib.llc_mtmd_encode(
            mtmd, _pointers(chunks), len(chunks), self.n_embd, ffi.from_buffer("float[]", rows, require_writable=True)
        )
        if status != lib.LLC_OK:
            if status == lib.LLC_ABORTED:
                self._break(text(lib.llc_last_error()))
            raise_status(status, f"encoding {len(chunks)} chunks", DecodeError, mark=mark)
        return np.split(rows, np.cumsum(n_rows[:-1]))

    def __repr__(self) -> str:
        kinds = [kind for kind in ("vision", "audio") if getattr(self, f"supports_{kind}")]
        return f"<MultimodalContext {self.path} {'+'.join(kinds)}{' (closed)' if self.closed else ''}>"


def _pointers(chunks: Sequence[Chunk]) -> list[Any]:
    """Native chunks; their `Chunks` must be taken."""
    return [lib.mtmd_input_chunks_get(chunk._chunks._core.ptr, chunk._index) for chunk in chunks]


def _utf8(words: str) -> bytes:
    if len(words) > _INT32_MAX // 4:
        raise InvalidArgumentError(f"a text of {len(words)} characters", hint="tokenize it in parts below 2 GiB")
    try:
        return words.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidArgumentError(
            f"the text has a lone surrogate at character {exc.start}", hint="decode it properly"
        ) from exc
