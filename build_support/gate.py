"""The values that tell whether libraries fit an extension, asked of the libraries themselves."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from build_support.errors import BuildError
from build_support.package import RECORD

_ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
import llamacore_sys as s
sizes = {name: s.lib.llc_struct_size(name.encode()) for name in s.ffi.list_types()[1]}
print(json.dumps([*s.UPSTREAM, {name: size for name, size in sorted(sizes.items()) if size}]))
"""


@dataclass(frozen=True)
class Gate:
    """Version and commit of llama.cpp, and the sizes of the structs that travel by value."""

    version: str
    commit: str
    structs: dict[str, int]


def read_gate(libraries: Path, package: Path, sources: Path) -> Gate:
    """Imports the extension with these libraries, in a process of its own, and asks them.

    Args:
        libraries: Their folder.
        package: A folder with the extension and the record of its build.
        sources: The folder of `llamacore_sys` in the source tree.

    Raises:
        BuildError: There is no extension, or it and the libraries do not fit.
    """
    built = [*package.glob("_native.*"), *package.glob(RECORD)]
    if len(built) < 2:
        raise BuildError(f"no extension in {package} to check the libraries with", "python build_lib.py build")
    with tempfile.TemporaryDirectory(prefix="llamacore-gate-") as folder:
        copy = Path(folder, "llamacore_sys")
        copy.mkdir()
        for path in [*sources.glob("*.py"), *built]:
            shutil.copyfile(path, copy / path.name)
        result = subprocess.run(
            [sys.executable, "-c", _ASK, folder],
            env={**os.environ, "LLAMACORE_LIB_DIR": str(libraries), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if result.returncode != 0:
        last = result.stderr.strip().splitlines()[-1:] or [f"exit status {result.returncode}"]
        raise BuildError(f"the libraries in {libraries} cannot be imported: {last[0]}", "build them again")
    version, commit, structs = json.loads(result.stdout)
    return Gate(version, commit, structs)
