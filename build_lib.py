"""Builds llama.cpp, the shim and the extension of `llamacore_sys`: one definition for pip, wheels and tarballs.

    python build_lib.py build [--profile native|portable] [--backend cuda|vulkan|blas]...
    python build_lib.py package [--backend NAME]... [--output DIR] [--from-dir DIR]... [--no-wheel]
    python build_lib.py release TAG [--platform KEY] [--dry-run] [--upload] [--repo OWNER/NAME]
    python build_lib.py fetch
    python build_lib.py clean

`build` leaves the extension and the libraries in `llamacore_sys/`, where an editable install finds them.
`pip install .` runs the same code and puts them into the wheel. See docs/building.md, and docs/packaging.md for
`package` and `release`.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from build_support.builder import ROOT, SYS_DIR, build, clean, fetch, pin
from build_support.config import ADDON_BACKENDS, BACKENDS, BASE_BACKENDS, PROFILES, BuildConfig
from build_support.errors import BuildError
from build_support.packaging_cli import Parser, add_commands, run
from build_support.process import Console

__all__ = ["SYS_DIR", "BuildConfig", "BuildError", "Console", "build", "clean", "fetch", "pin"]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="build_lib.py", description="Builds the native libraries of llamacore.")
    commands = parser.add_subparsers(dest="command", required=True)
    source = argparse.ArgumentParser(add_help=False)
    source.add_argument("--source", type=Path, metavar="DIR", help="a llama.cpp checkout instead of the pinned source")
    source.add_argument(
        "--allow-unpinned", action="store_true", help="accept a --source that is not the pinned version"
    )

    make = commands.add_parser("build", parents=[source], help="build and install into llamacore_sys/")
    make.add_argument(
        "--profile", choices=PROFILES, default="native", help="this machine's CPU, or loadable CPU variants"
    )
    make.add_argument(
        "--backend",
        choices=BACKENDS,
        action="append",
        metavar="NAME",
        help=f"an add-on: {', '.join(ADDON_BACKENDS)}; repeatable ({' and '.join(BASE_BACKENDS)} are always built)",
    )
    make.add_argument("--cuda-arch", metavar="LIST", help="CUDA architectures, such as 90 or 80,90")
    make.add_argument(
        "--jobs", type=int, metavar="N", help="compiler processes at once (default: from cores and memory)"
    )
    make.add_argument("--verbose", action="store_true", help="show all output of the tools")

    add_commands(commands)
    commands.add_parser("fetch", help="download and unpack the pinned source, for building offline later")
    commands.add_parser("clean", help="remove build folders and built files; the downloaded source stays")
    return parser


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit status: 0, 1 after a failure that was explained on stderr, 130 when interrupted.
    """
    args = _parser().parse_args(argv)
    console = Console(verbose=getattr(args, "verbose", False))
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if args.command == "clean":
            clean(console)
        elif args.command == "fetch":
            console.say(f"llama.cpp is in {fetch(console)}")
        elif args.command in ("package", "release"):
            run(args, console)
        else:
            config = BuildConfig(
                profile=args.profile,
                backends=tuple(args.backend or ()),
                source=args.source.resolve() if args.source else None,
                allow_unpinned=args.allow_unpinned,
                jobs=args.jobs,
                cuda_arch=args.cuda_arch,
            )
            files = build(config, SYS_DIR, console)
            size = sum(path.stat().st_size for path in files) / 2**20
            console.say(f"built: {len(files)} files, {size:.1f} MiB in {SYS_DIR.relative_to(ROOT)}/")
    except BuildError as error:
        console.say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        console.say("interrupted: nothing was installed; the next run continues where this one ended")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
