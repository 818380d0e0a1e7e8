"""Frames of a video. Scripts that answer as ffprobe and ffmpeg do stand in for them, which need not be installed."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from media import Pair, context

from llamacore.core.bitmap import Bitmap, Video
from llamacore.errors import (
    ClosedError,
    InvalidArgumentError,
    UnsupportedError,
)

FFPROBE = """#!{python}
import sys
if "nothing" in sys.argv[-1]:
    sys.exit(1)
if sys.argv[-1] == "pipe:0":
    sys.stdin.buffer.read()
print("width=6\\nheight=4\\nr_frame_rate=10/1\\nnb_frames=4\\nduration=0.4")
"""
FFMPEG = """#!{python}
import sys
open({log!r}, "w").write(" ".join(sys.argv[1:]))
if "cache:pipe:0" in sys.argv:
    sys.stdin.buffer.read()
for i in range(4):
    sys.stdout.buffer.write(bytes([i]) * (6 * 4 * 3))
"""


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, code in (("ffprobe", FFPROBE), ("ffmpeg", FFMPEG)):
        (folder / name).write_text(code.format(python=sys.executable, log=str(tmp_path / "arguments")))
        (folder / name).chmod(stat.S_IRWXU)
    return folder


@pytest.mark.skipif(os.name == "nt", reason="the programs are scripts")
@pytest.mark.parametrize("in_memory", [False, True])
def test_video(qwen: Pair, programs: Path, tmp_path: Path, in_memory: bool) -> None:
    if not qwen.mm.supports_video:
        pytest.skip("built without video")
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"frames")
    source = clip.read_bytes() if in_memory else clip
    with Video.open(source, qwen.mm, fps=0, timestamp_interval_ms=200, ffmpeg_dir=programs) as video:
        assert (video.width, video.height, video.fps, video.n_frames) == (6, 4, 10.0, 4)
        items = list(video)
        assert video.read_next() is None
    frames = [item for item in items if isinstance(item, Bitmap)]
    assert [item for item in items if isinstance(item, str)] == ["Video:", "[0m0.00s]", "[0m0.20s]"]
    assert [int(frame.to_numpy().max()) for frame in frames] == [0, 1, 2, 3]
    assert ("cache:pipe:0" if in_memory else str(clip)) in (tmp_path / "arguments").read_text().split()
    chunks = qwen.mm.tokenize(items)
    assert [c.type for c in chunks].count("image") == 3  # frames 1 and 2 have no text between them: merged
    with context(qwen, n_ctx=256) as ctx:
        assert qwen.mm.eval_chunks(ctx, chunks) == chunks.n_pos


@pytest.mark.skipif(os.name == "nt", reason="the programs are scripts")
def test_video_is_refused(qwen: Pair, programs: Path, tmp_path: Path) -> None:
    if not qwen.mm.supports_video:
        pytest.skip("built without video")
    (tmp_path / "nothing.mp4").write_bytes(b"x")
    with pytest.raises(InvalidArgumentError, match="ffprobe failed"):
        Video.open(tmp_path / "nothing.mp4", qwen.mm, ffmpeg_dir=programs)
    with pytest.raises(InvalidArgumentError, match="no such file"):
        Video.open("concat:a|b", qwen.mm, ffmpeg_dir=programs)
    with pytest.raises(InvalidArgumentError):
        Video.open(b"", qwen.mm, ffmpeg_dir=programs)
    with pytest.raises(InvalidArgumentError, match="fps"):
        Video.open(b"x", qwen.mm, fps=-1, ffmpeg_dir=programs)
    with pytest.raises(UnsupportedError, match="no ffmpeg"):
        Video.open(b"x", qwen.mm, ffmpeg_dir=tmp_path)
    video = Video.open(b"x", qwen.mm, ffmpeg_dir=programs)
    video.close()
    with pytest.raises(ClosedError):
        video.read_next()
