"""Upstream's own tools, built from the pinned source with upstream's own settings, once."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import llamacore_sys
from build_support.cache import cache_dir
from build_support.program import Libraries, upstream_source
from build_support.toolchain import default_jobs, find_toolchain

_OFF = ("LLAMA_BUILD_UI", "LLAMA_BUILD_APP", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_OPENSSL")


def tools_folder(names: Sequence[str], back_end: str | None = None, options: Sequence[str] = ()) -> Path:
    """Folder that has these tools; building them takes minutes the first time.

    Args:
        names: Programs of upstream.
        back_end: One besides the CPU, such as "cuda" or "rpc"; each has a folder of its own.
        options: More options of cmake, such as the architectures of CUDA.
    """
    folder = cache_dir() / "bench" / ("upstream" if back_end is None else f"upstream-{back_end}")
    if not all((folder / "bin" / name).exists() for name in names):
        libraries = Libraries(Path(llamacore_sys.lib_dir), llamacore_sys.UPSTREAM.commit)
        tools = find_toolchain()
        print(f"building {', '.join(names)} in {folder}", flush=True)
        switches = [*(f"-D{name}=OFF" for name in _OFF), *options]
        if back_end is not None:
            switches.append(f"-DGGML_{back_end.upper()}=ON")
        configure = [tools.cmake, "-G", "Ninja", "-S", str(upstream_source(libraries)), "-B", str(folder)]
        subprocess.run([*configure, "-DCMAKE_BUILD_TYPE=Release", *switches], check=True, stdout=subprocess.DEVNULL)
        build = [tools.cmake, "--build", str(folder), "--target", *names, "--parallel", str(default_jobs())]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return folder / "bin"
