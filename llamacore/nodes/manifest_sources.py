"""The model files that the nodes of a manifest say they need: which are here, and fetching those that are not."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .. import hub
from ..errors import InvalidArgumentError, ModelNotFoundError, UnsupportedError
from .manifest import Manifest
from .manifest_fields import Fields
from .shared import DEMO

KEY = "model_sources"
_HUB_URL = re.compile(r"https://[^/]+/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+?)(?:\?.*)?")
_HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)/(.+)")
_KINDS = ("huggingface", "http", "local")


@dataclass(frozen=True)
class ModelSource:
    """A model file that a node says it needs.

    Attributes:
        node: Id of the node.
        path: Where it is to be, as the manifest has it, relative to the manifest's folder.
        location: The same, resolved.
        exists: Whether it is there, with the size that is stated.
        source: Where it comes from.
        filename: Its name at its source; for the Hugging Face Hub "owner/name/file" where there is no `url`.
        required: Whether the pipeline cannot run without it.
        sha256: What it must have, in lower case hexadecimal digits.
        url: Its address.
        revision: Its revision at the source.
        size: Its bytes.
        cache_key: What caches of other hosts know it by.
        embed: Whether other hosts put it into their bundles.
        license: Its licence.
        target_may_supply_credentials: Whether fetching it may need a token.
    """

    node: str
    path: str
    location: Path
    exists: bool
    source: Literal["huggingface", "http", "local"] = "huggingface"
    filename: str = ""
    required: bool = True
    sha256: str | None = None
    url: str | None = None
    revision: str | None = None
    size: int | None = None
    cache_key: str | None = None
    embed: bool | None = None
    license: str | None = None
    target_may_supply_credentials: bool = False


def model_sources(manifest: Manifest) -> list[ModelSource]:
    """List the files of all nodes' `params.model_sources`, in their order. Nothing is fetched.

    Raises:
        InvalidArgumentError: A declaration is not sound; the message begins with its path.
    """
    found: list[ModelSource] = []
    for number, node in enumerate(manifest.nodes):
        if node.params.get(KEY) is None:
            continue
        sources = Fields(node.params[KEY], f"nodes[{number}].params.{KEY}", [])
        for item in sources.children("files"):
            found.append(_source(item, node.id, manifest.folder))
            item.finish()
        sources.finish()
    return found


def require_sources(manifest: Manifest, *, fetch: bool = False) -> None:
    """See to it that all required files are here.

    Args:
        manifest: The manifest.
        fetch: Fetch what is missing from the Hugging Face Hub (extra `hub`).

    Raises:
        ModelNotFoundError: A file is missing; the message lists all that are.
        InvalidArgumentError: A file is not the one that is meant: its SHA-256 is another.
        UnsupportedError: A file can only be fetched by hand.
    """
    missing = [item for item in model_sources(manifest) if item.required and not item.exists]
    if missing and not fetch:
        names = ", ".join(f"{item.location} (node {item.node!r}, from {item.url or item.filename})" for item in missing)
        raise ModelNotFoundError(f"model files are missing: {names}", hint="put them there, or run with --fetch")
    for item in missing:
        fetch_source(item)
    for item in model_sources(manifest):
        if item.exists and item.sha256 is not None:
            _check_hash(item, item.location)


def fetch_source(item: ModelSource) -> Path:
    """Fetch a file from the Hugging Face Hub into its place; it appears there when it is whole.

    Raises:
        UnsupportedError: It is not on the hub, or huggingface_hub is not installed.
        ModelNotFoundError: The hub does not have it.
        InvalidArgumentError: Its SHA-256 is not the stated one.
    """
    match = _HUB_URL.fullmatch(item.url) if item.url else None
    if item.source == "huggingface" and match is not None:
        repo, revision, name = match[1], item.revision or match[2], match[3]
    elif item.source == "huggingface" and not item.url and (match := _HUB_NAME.fullmatch(item.filename)) is not None:
        repo, revision, name = match[1], item.revision or "main", match[2]
    else:
        raise UnsupportedError(
            f"{item.path} of node {item.node!r} comes from {item.url or item.filename or item.source}, "
            "which is no file of the Hugging Face Hub",
            hint=f"fetch it by hand to {item.location}",
        )
    got = hub.download(repo, file=name, revision=revision).path
    _check_hash(item, got)
    item.location.parent.mkdir(parents=True, exist_ok=True)
    aside = item.location.with_name(f".{item.location.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(got, aside)
        aside.replace(item.location)
    finally:
        aside.unlink(missing_ok=True)
    return item.location


def node_params(params: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the parameters of a node as it gets them: without sources, paths relative to the manifest's folder.

    These are `model_path`, also that of `generation`, and `path` of `vectors`.
    """
    made = {key: value for key, value in params.items() if key != KEY}
    _anchor(made, "model_path", folder)
    if isinstance(made.get("generation"), Mapping):
        made["generation"] = dict(made["generation"])
        _anchor(made["generation"], "model_path", folder)
    if isinstance(made.get("vectors"), list):
        made["vectors"] = [dict(item) if isinstance(item, Mapping) else item for item in made["vectors"]]
        for item in made["vectors"]:
            if isinstance(item, dict):
                _anchor(item, "path", folder)
    return made


def _anchor(params: dict[str, Any], key: str, folder: Path) -> None:
    value = params.get(key)
    if isinstance(value, str) and _is_relative(value):
        params[key] = str(folder / value)


def _is_relative(value: str) -> bool:
    return value not in ("", DEMO) and not Path(value).is_absolute()


def _source(item: Fields, node: str, folder: Path) -> ModelSource:
    path = item.required("path")
    size = item.whole("size")
    digest = item.text("sha256")
    if digest is not None and re.fullmatch(r"[0-9a-fA-F]{64}", digest) is None:
        raise InvalidArgumentError(f"{item.at('sha256')} is {digest!r}", hint="give 64 hexadecimal digits")
    location = folder / Path(path).expanduser()
    exists = location.is_file() and (size is None or location.stat().st_size == size)
    return ModelSource(
        node=node,
        path=path,
        location=location,
        exists=exists,
        source=item.text("source", choices=_KINDS) or "huggingface",  # type: ignore[arg-type]
        filename=item.text("filename") or Path(path).name,
        required=item.flag("required", default=True),
        sha256=digest.lower() if digest is not None else None,
        url=item.text("url"),
        revision=item.text("revision"),
        size=size,
        cache_key=item.text("cache_key"),
        embed=item.flag("embed"),
        license=item.text("license"),
        target_may_supply_credentials=item.flag("target_may_supply_credentials"),
    )


def _check_hash(item: ModelSource, file: Path) -> None:
    if item.sha256 is None:
        return
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != item.sha256:
        raise InvalidArgumentError(
            f"{file} of node {item.node!r} has the SHA-256 {digest.hexdigest()}, not {item.sha256}",
            hint="it is another file, or damaged: fetch it again",
        )
