"""Downloads go through the user's own pip, so that mirrors, proxies and certificates are the user's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from build_support.errors import BuildError
from build_support.lock import exclusive
from build_support.process import Console


def run_pip(arguments: Sequence[str], log: Path) -> str | None:
    """Runs a command of pip.

    Args:
        arguments: The command and its arguments.
        log: File that receives pip's output.

    Returns:
        None when it succeeded, else pip's output.
    """
    # pip leaves this variable in the environment of the builds it runs; a second pip must not follow it
    env = {key: value for key, value in os.environ.items() if key != "PIP_BUILD_TRACKER"}
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    output = result.stdout + result.stderr
    log.write_text(output, encoding="utf-8")
    return None if result.returncode == 0 else output


def cached_package(
    requirement: str, home: Path, is_whole: Callable[[Path], bool], console: Console, *, size: str, otherwise: str
) -> Path:
    """A package of compiled libraries to link to, which pip downloads the first time.

    Args:
        requirement: What pip is asked for; its dependencies are left out.
        home: The folder that it is installed to, in a cache; whole or not there, whatever happens.
        is_whole: Tells of such a folder whether it has what is needed.
        console: Where a download is announced.
        size: About how much is downloaded, in words.
        otherwise: What else helps when it cannot be downloaded.

    Returns:
        `home`.

    Raises:
        BuildError: It could not be had.
    """
    with exclusive(home.parent / "lock", console.say):
        if is_whole(home):
            return home
        console.say(f"downloading {requirement} ({size})")
        log = home.parent / "download.log"
        with tempfile.TemporaryDirectory(prefix="download-", dir=home.parent) as folder:
            target = Path(folder, "package")
            command = ["install", "--no-deps", "--only-binary", ":all:", "--target", str(target), requirement]
            output = run_pip(command, log)
            if output is not None and "No module named pip" in output:
                raise BuildError("this Python has no pip to download with", f"python -m ensurepip, {otherwise}")
            if output is not None or not is_whole(target):
                raise BuildError(
                    f"{requirement} could not be downloaded\n    log: {log}",
                    f"check the network and pip's settings (`python -m pip config list`), {otherwise}",
                )
            shutil.rmtree(home, ignore_errors=True)
            os.replace(target, home)
    return home
