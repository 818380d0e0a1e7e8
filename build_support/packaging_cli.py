"""The commands `package` and `release` of build_lib.py."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import NoReturn

from build_support.builder import ROOT
from build_support.config import ADDON_BACKENDS, PROFILES, BuildConfig
from build_support.errors import BuildError
from build_support.packaging import package
from build_support.platforms import parse_platform, this_platform
from build_support.process import Console
from build_support.release import Release, release
from build_support.release_manifest import MANIFEST
from build_support.versions import is_tag

USAGE_ERROR = 64  # EX_USAGE of sysexits.h


class Parser(argparse.ArgumentParser):
    """Ends with `USAGE_ERROR`, which scripts can tell from a failure."""

    def error(self, message: str) -> NoReturn:
        """Explains and ends."""
        self.print_usage(sys.stderr)
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message}\n")


def add_commands(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds both commands to the parser of build_lib.py."""
    shared = Parser(add_help=False)
    shared.add_argument(
        "--backend",
        choices=ADDON_BACKENDS,
        action="append",
        default=[],
        metavar="NAME",
        help=f"an add-on to package too: {', '.join(ADDON_BACKENDS)}; repeatable",
    )
    shared.add_argument("--cuda-arch", metavar="LIST", help="CUDA architectures, such as 90 or 80;90")
    shared.add_argument("--jobs", type=int, metavar="N", help="compiler processes at once")
    shared.add_argument("--verbose", action="store_true", help="show all output of the tools")

    pack = commands.add_parser("package", parents=[shared], help="build if need be, and make archives and wheels")
    pack.add_argument("--profile", choices=PROFILES, default="portable", help="native stays on this machine")
    pack.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR", help="where the files go (dist)")
    pack.add_argument(
        "--from-dir", type=Path, action="append", default=[], metavar="DIR", help="take libraries instead of building"
    )
    pack.add_argument("--no-wheel", action="store_true", help="make the archives only")

    make = commands.add_parser("release", parents=[shared], help="check, package, and publish if asked")
    make.add_argument("tag", type=_tag, help="v and the version, as in v1.2.3")
    make.add_argument("--platform", metavar="KEY", help="a platform key (this machine's)")
    make.add_argument("--dry-run", action="store_true", help="leave everything in release-dry-run-TAG-PLATFORM/")
    make.add_argument("--upload", action="store_true", help="publish with gh")
    make.add_argument(
        "--repo", type=_repo, default=os.environ.get("GH_REPO"), metavar="OWNER/NAME", help="where to (GH_REPO)"
    )
    make.add_argument(
        "--from-dir",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="take libraries, or what `package` made here or elsewhere, instead of building",
    )
    make.set_defaults(usage_error=make.error)


def run(args: argparse.Namespace, console: Console) -> None:
    """Runs one of the two.

    Raises:
        BuildError: It failed.
    """
    try:
        _run(args, console)
    except OSError as error:
        raise BuildError(
            f"a file cannot be read or written: {error}", "correct that, and run the command again"
        ) from error


def _run(args: argparse.Namespace, console: Console) -> None:
    profile = args.profile if args.command == "package" else "portable"
    config = BuildConfig(profile=profile, backends=tuple(args.backend), jobs=args.jobs, cuda_arch=args.cuda_arch)
    if args.command == "package":
        done = package(config, args.output, console, from_dirs=args.from_dir, wheel=not args.no_wheel)
        for name in done.files[::2]:
            console.say(f"{(done.folder / name).stat().st_size / 2**20:8.1f} MiB  {name}")
        console.say(f"packaged: {len(done.files)} files and {MANIFEST} in {done.folder}")
        return
    if args.dry_run and args.upload:
        args.usage_error("--dry-run publishes nothing: leave it or --upload out")
    try:
        platform = parse_platform(args.platform) if args.platform else this_platform()
    except BuildError as error:
        args.usage_error(f"argument --platform: {error.cause}")
    asked = Release(args.tag, platform, dry_run=args.dry_run, upload=args.upload, repo=args.repo)
    release(asked, config, console, from_dirs=args.from_dir)


def _tag(text: str) -> str:
    if not is_tag(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no tag of a release: write it like v1.2.3")
    return text


def _repo(text: str) -> str:
    if not re.fullmatch(r"([\w.-]+/)?[\w.-]+/[\w.-]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no repository: write it like OWNER/NAME")
    return text
