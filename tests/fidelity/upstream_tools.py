"""Upstream's own tools, compiled from the pinned source against the libraries under test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import llamacore_sys

ROOT = Path(__file__).resolve().parents[2]

# Behind everything installed: the build's own modules are found, the packages under test stay the installed ones.
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from build_support.errors import BuildError as BuildError  # noqa: E402
from build_support.program import Libraries, compile_program, upstream_source  # noqa: E402

FLUSHED_MAIN = Path(__file__).parent / "flushed_main.cpp"
# The file of a tool, and its entry where that is not main().
SOURCES = {
    "llama-tokenize": ("tools/tokenize/tokenize.cpp", None),
    "llama-completion": ("tools/completion/completion.cpp", "llama_completion"),
    "llama-perplexity": ("tools/perplexity/perplexity.cpp", "llama_perplexity"),
    "llama-debug": ("examples/debug/debug.cpp", None),
}


class UpstreamTools:
    """Runs upstream's tools on one model."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self._programs: dict[str, Path] = {}
        self._libraries = Libraries(Path(llamacore_sys.lib_dir), llamacore_sys.UPSTREAM.commit)

    def _program(self, name: str) -> Path:
        if name not in self._programs:
            self._programs[name] = self._compile(name)
        return self._programs[name]

    def _compile(self, name: str) -> Path:
        file, entry = SOURCES[name]
        sources = [upstream_source(self._libraries) / file]
        options = ["-O1"]
        if entry is not None:
            sources.append(FLUSHED_MAIN)
            options.append(f"-DUPSTREAM_MAIN={entry}")
        return compile_program(name, sources, self._libraries, options=options)

    def run(self, name: str, *arguments: str, text: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a tool to its end; one that fails is a failed test."""
        result = subprocess.run(
            [str(self._program(name)), "-m", str(self.model), "-t", "1", *arguments],
            input=text,
            capture_output=True,
            cwd=llamacore_sys.lib_dir,  # where a tool looks for loadable back ends
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr.decode("utf-8", "replace")[-2000:]
        return result
