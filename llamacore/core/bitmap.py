"""Images and sounds for a multimodal model, and the frames of a video."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InvalidArgumentError, NativeError, UnsupportedError
from ..params import StrPath
from . import backend, log
from ._handle import Handle, SharedHandle
from ._native import ffi, lib, path_bytes, text
from ._status import raise_status

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .multimodal import MultimodalContext


_INT_MAX = 2**31 - 1  # upstream counts bytes and milliseconds in int
_MAX_SAMPLES = 2**30
_NO_PROGRAM = os.devnull  # as ffmpeg's folder: upstream then finds no program to start


@contextmanager
def using(*handles: Handle) -> Iterator[list[Any]]:
    """Take several objects for the calling thread at once; gives their pointers in the same order."""
    with ExitStack() as stack:
        pointers = []
        for handle in handles:
            pointers.append(handle._enter())
            stack.callback(handle._exit)
        yield pointers


def _ffmpeg_dir(folder: StrPath | None) -> bytes:
    """Name the folder of both programs for upstream; an empty one lets it search PATH."""
    for program in ("ffmpeg", "ffprobe"):
        if shutil.which(program, path=None if folder is None else os.fspath(folder)) is None:
            where = "the PATH" if folder is None else os.fspath(folder)
            raise UnsupportedError(f"there is no {program} in {where}", hint="install ffmpeg, or say where it is")
    return b"" if folder is None else path_bytes(os.path.abspath(folder))


def _name(name: str) -> bytes:
    try:
        raw = name.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidArgumentError(f"the id {name!r} is not valid Unicode") from exc
    if b"\0" in raw:
        raise InvalidArgumentError(f"the id {name!r} contains a NUL character")
    return raw


def _read_file(path: StrPath) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as exc:
        raise InvalidArgumentError(
            f"reading {os.fspath(path)}: {exc.strerror or exc}", hint="give the path of a readable file"
        ) from exc


class Bitmap(SharedHandle):
    """An image or a sound, decoded (upstream: `mtmd_bitmap`). It never changes and can be used by several threads.

    Attributes:
        kind: "image" or "audio".
        width: Pixels in a row of an image, 0 for audio.
        height: Rows of an image, 0 for audio.
        n_samples: Samples of audio, 0 for an image.
        nbytes: Size of the data; 0 for a placeholder.
        id: Name that its chunks carry, for caches: of a file the SHA-256 of its bytes, unless it was chosen.
    """

    def __init__(self, ptr: Any) -> None:
        super().__init__(ptr, lib.mtmd_bitmap_free)
        audio = bool(lib.mtmd_bitmap_is_audio(ptr))
        nx, ny = int(lib.mtmd_bitmap_get_nx(ptr)), int(lib.mtmd_bitmap_get_ny(ptr))
        self.kind: Literal["image", "audio"] = "audio" if audio else "image"
        self.width, self.height, self.n_samples = (0, 0, nx) if audio else (nx, ny, 0)
        self.nbytes = int(lib.mtmd_bitmap_get_n_bytes(ptr))
        self.id = text(lib.mtmd_bitmap_get_id(ptr))

    @property
    def placeholder(self) -> bool:
        """Whether it has a size but no data: enough to count tokens, not to encode."""
        return self.nbytes == 0

    @classmethod
    def from_rgb(cls, image: NDArray[np.uint8], *, id: str = "", mergeable: bool = False) -> Bitmap:  # noqa: A002
        """Copy an image.

        Args:
            image: uint8 [height, width, 3], red, green and blue.
            id: Name for caches.
            mergeable: Whether it is a frame that a video model may join with the next one to one chunk.

        Raises:
            InvalidArgumentError: The shape or the type is wrong, or it has no pixels.
        """
        import numpy as np

        pixels = np.asarray(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not 0 < pixels.size <= _INT_MAX:
            raise InvalidArgumentError(
                f"an image of shape {pixels.shape} and type {pixels.dtype}",
                hint="it must be uint8 [height, width, 3] with at least one pixel and less than 2 GiB",
            )
        return cls._image(pixels.shape[1], pixels.shape[0], np.ascontiguousarray(pixels), id, mergeable)

    @classmethod
    def from_size(cls, width: int, height: int, *, id: str = "") -> Bitmap:  # noqa: A002
        """Make a placeholder for an image of this size.

        Raises:
            InvalidArgumentError: A side is not positive, or the image would have 2 GiB or more.
        """
        if not (width > 0 and height > 0 and width * height * 3 <= _INT_MAX):
            raise InvalidArgumentError(f"an image of {width} x {height} pixels", hint="each side has at least one")
        return cls._image(width, height, None, id, False)

    @classmethod
    def _image(cls, width: int, height: int, pixels: Any, name: str, mergeable: bool) -> Bitmap:
        backend.init()
        out = ffi.new("struct mtmd_bitmap **")
        data = ffi.NULL if pixels is None else ffi.from_buffer("uint8_t[]", pixels)
        status = lib.llc_mtmd_bitmap_image(width, height, data, _name(name), mergeable, out)
        if status != lib.LLC_OK:
            raise_status(status, f"copying an image of {width} x {height} pixels", NativeError)
        return cls(out[0])

    @classmethod
    def from_audio(cls, samples: NDArray[np.floating[Any]], *, id: str = "") -> Bitmap:  # noqa: A002
        """Copy a sound.

        Args:
            samples: Floats [n_samples] from -1 to 1, mono, at `MultimodalContext.audio_sample_rate`.
            id: Name for caches.

        Raises:
            InvalidArgumentError: The shape or the type is wrong, there are fewer than 2 samples, or some are not
                finite.
        """
        import numpy as np

        sound = np.asarray(samples)
        if sound.ndim != 1 or sound.dtype.kind != "f" or not 2 <= sound.size <= _MAX_SAMPLES:
            raise InvalidArgumentError(
                f"audio of shape {sound.shape} and type {sound.dtype}",
                hint="it must be floats [n_samples] with at least two of them; divide 16-bit samples by 32768",
            )
        sound = np.ascontiguousarray(sound, dtype=np.float32)
        if not np.isfinite(sound).all():
            raise InvalidArgumentError("audio with samples that are not finite", hint="they are from -1 to 1")
        backend.init()
        out = ffi.new("struct mtmd_bitmap **")
        status = lib.llc_mtmd_bitmap_audio(sound.size, ffi.from_buffer("float[]", sound), _name(id), out)
        if status != lib.LLC_OK:
            raise_status(status, f"copying {sound.size} samples", NativeError)
        return cls(out[0])

    @classmethod
    def from_file(
        cls, path: StrPath, context: MultimodalContext, *, placeholder: bool = False, ffmpeg: StrPath | bool = False
    ) -> Bitmap:
        """Decode an image or audio file; see `from_buffer`.

        Raises:
            InvalidArgumentError: The file cannot be read or is neither an image nor audio.
            UnsupportedError: `ffmpeg` was asked for and is not there.
        """
        return cls.from_buffer(_read_file(path), context, placeholder=placeholder, ffmpeg=ffmpeg)

    @classmethod
    def from_buffer(
        cls,
        data: bytes | bytearray | memoryview,
        context: MultimodalContext,
        *,
        placeholder: bool = False,
        ffmpeg: StrPath | bool = False,
    ) -> Bitmap:
        """Decode the bytes of an image or audio file (upstream: `mtmd_helper_bitmap_init_from_buf`).

        Args:
            data: JPEG, PNG, BMP, GIF (first frame), PSD, TGA, HDR or PNM; WAV, MP3 or FLAC, made mono and resampled
                to what the model takes; with `ffmpeg` WebP as well.
            context: Says at which rate it takes audio.
            placeholder: Keep the size only.
            ffmpeg: Whether ffmpeg may be started for what upstream cannot decode itself: True for the one in the PATH,
                or the folder that has it. Off for data that others send.

        Raises:
            InvalidArgumentError: It is neither an image nor audio, or damaged, or audio for a model that takes none.
            UnsupportedError: `ffmpeg` was asked for and is not there.
        """
        size = memoryview(data).nbytes
        if not 0 < size <= _INT_MAX:
            raise InvalidArgumentError(f"an image or audio file of {size} bytes", hint="it has 1 byte to 2 GiB")
        programs = _NO_PROGRAM.encode() if ffmpeg is False else _ffmpeg_dir(None if ffmpeg is True else ffmpeg)
        out = ffi.new("struct mtmd_bitmap **")
        with using(context) as (mtmd,), ffi.from_buffer("uint8_t[]", data) as raw:
            mark = log.mark()
            status = lib.llc_mtmd_bitmap_read(mtmd, raw, size, placeholder, programs, out)
        if status != lib.LLC_OK:
            hint = "give an image or audio file; decode other formats first and use from_rgb; open a video with Video"
            raise_status(status, f"decoding {size} bytes", InvalidArgumentError, mark=mark, hint=hint)
        return cls(out[0])

    def to_numpy(self) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Return a copy of the data: uint8 [height, width, 3] or float32 [n_samples].

        Raises:
            InvalidArgumentError: It is a placeholder.
        """
        import numpy as np

        if self.placeholder:
            raise InvalidArgumentError("this Bitmap is a placeholder: it has no data")
        with using(self) as (ptr,):
            raw: NDArray[np.uint8] = np.frombuffer(
                ffi.buffer(lib.mtmd_bitmap_get_data(ptr), self.nbytes), dtype=np.uint8
            ).copy()
        if self.kind == "audio":
            samples: NDArray[np.float32] = raw.view(np.float32)
            return samples
        pixels: NDArray[np.uint8] = raw.reshape(self.height, self.width, 3)
        return pixels

    def __repr__(self) -> str:
        size = f"{self.n_samples} samples" if self.kind == "audio" else f"{self.width} x {self.height}"
        return f"<Bitmap {self.kind} {size}{' (placeholder)' if self.placeholder else ''}>"


class Video(Handle):
    """The frames of a video, decoded by a running ffmpeg (upstream: `mtmd_helper_video`).

    Iterating gives, once and in order, what a prompt has for it: the text "Video:", then frames as mergeable `Bitmap`s
    with a text such as "[1m3.50s]" after some of them. `MultimodalContext.tokenize` takes them as parts.

    Attributes:
        width: Pixels in a row of a frame.
        height: Rows of a frame.
        fps: Frames per second that are given.
        n_frames: Estimate of how many there are; None when ffmpeg cannot tell.
    """

    def __init__(self, ptr: Any, context: MultimodalContext) -> None:
        super().__init__(ptr, lib.mtmd_helper_video_free, parent=context)
        info = lib.mtmd_helper_video_get_info(ptr)
        self.width, self.height, self.fps = int(info.width), int(info.height), float(info.fps)
        self.n_frames = None if info.n_frames < 0 else int(info.n_frames)

    @classmethod
    def open(
        cls,
        source: StrPath | bytes,
        context: MultimodalContext,
        *,
        fps: float | None = None,
        timestamp_interval_ms: int | None = None,
        ffmpeg_dir: StrPath | None = None,
    ) -> Video:
        """Start ffmpeg on a video.

        Args:
            source: A file, or the bytes of one.
            context: A context that supports video.
            fps: Frames per second to give; 0 for all frames of the video; None for upstream's default.
            timestamp_interval_ms: Time between two texts that tell the time; 0 for none; None for upstream's default.
            ffmpeg_dir: Folder that has ffmpeg and ffprobe; None to search the PATH.

        Returns:
            The open video, a child of the context; the caller closes it, which ends ffmpeg.

        Raises:
            UnsupportedError: The model takes no images, the libraries were built without video, or there is no ffmpeg.
            InvalidArgumentError: ffmpeg finds no video in it.
        """
        if not context.supports_video:
            raise UnsupportedError("this model or this build takes no video")
        folder = ffi.new("char[]", _ffmpeg_dir(ffmpeg_dir))
        params = ffi.new("struct mtmd_helper_video_init_params *", lib.mtmd_helper_video_init_params_default())
        params.ffmpeg_bin_dir = folder
        if fps is not None:
            if not 0 <= fps <= 1000:
                raise InvalidArgumentError(f"fps={fps!r}", hint="give 0 to 1000 frames per second")
            params.fps_target = fps
        if timestamp_interval_ms is not None:
            if not 0 <= timestamp_interval_ms <= _INT_MAX:
                raise InvalidArgumentError(f"timestamp_interval_ms={timestamp_interval_ms!r}", hint="0 for none")
            params.timestamp_interval_ms = timestamp_interval_ms
        path, data = ffi.NULL, b""
        if isinstance(source, bytes):
            if not source:
                raise InvalidArgumentError("a video of 0 bytes", hint="give the bytes of a video file")
            data, what = source, f"opening a video of {len(source)} bytes"
        else:
            what = f"opening the video {os.fspath(source)}"
            if not os.path.isfile(source):
                raise InvalidArgumentError(f"{what}: there is no such file", hint="check the path")
            path = ffi.new("char[]", path_bytes(os.path.abspath(source)))  # ffmpeg reads "concat:..." as an order
        out = ffi.new("struct mtmd_helper_video **")
        with using(context) as (mtmd,), ffi.from_buffer("uint8_t[]", data) as raw:
            mark = log.mark()
            status = lib.llc_mtmd_video_open(mtmd, path, raw, len(data), params, out)
        if status != lib.LLC_OK:
            raise_status(status, what, InvalidArgumentError, mark=mark, hint="give a video that ffmpeg can read")
        return cls(out[0], context)

    def read_next(self) -> Bitmap | str | None:
        """Return the next frame or text, None at the end.

        Raises:
            NativeError: ffmpeg ended before the first frame.
        """
        bitmap, words = ffi.new("struct mtmd_bitmap **"), ffi.new("char **")
        with using(self) as (ptr,):
            mark = log.mark()
            status = lib.llc_mtmd_video_next(ptr, bitmap, words)
        if status != lib.LLC_OK:
            raise_status(status, "reading the video", NativeError, mark=mark)
        if words[0] != ffi.NULL:
            try:
                return text(words[0])
            finally:
                lib.llc_string_free(words[0])
        return None if bitmap[0] == ffi.NULL else Bitmap(bitmap[0])

    def __iter__(self) -> Iterator[Bitmap | str]:
        while (item := self.read_next()) is not None:
            yield item

    def __repr__(self) -> str:
        return (
            f"<Video {self.width} x {self.height}, {self.fps:g} frames per second{' (closed)' if self.closed else ''}>"
        )
