"""The portable profile: CPU variants that are opened at run time, built and used away from this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

USE = """
import llamacore as lc, llamacore_sys
from pathlib import Path
assert Path(llamacore_sys.lib_dir).is_relative_to(Path.cwd()), llamacore_sys.lib_dir
variants = [path.name for path in Path(llamacore_sys.lib_dir).glob("libggml-cpu-*")]
assert len(variants) > 3, variants
with lc.Llama(n_threads=1) as llm:
    assert llm.generate("Once upon a time", max_tokens=8, seed=1).text
    assert llm.engine.stats().completion_tokens == 8
print(len(variants), "variants")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the files are named as on Linux")
def test_it_is_built_and_generates(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout.split(b"\0")
    if not any(tracked):
        pytest.skip("no checkout to copy")
    for name in filter(None, map(os.fsdecode, tracked)):
        if name.startswith(("llamacore", "build_", "setup.py", "pyproject.toml")):
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "build_lib.py", "build", "--profile", "portable"]
    built = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, timeout=1500, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    used = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert used.returncode == 0, used.stderr[-2000:]
