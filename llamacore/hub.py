"""Finding model files: the demo model, and models of the Hugging Face Hub (extra `hub`)."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from .errors import InvalidArgumentError, LoadCancelledError, ModelLoadError, ModelNotFoundError, UnsupportedError
from .params import StrPath

DEMO_MODEL = "llamacore-demo-q8_0.gguf"
DEMO_DRAFT = "llamacore-demo-draft-q8_0.gguf"

QUANT_PREFERENCE = (
    "Q4_K_M", "Q8_0", "Q4_K_S", "Q5_K_M", "Q6_K", "Q4_0", "Q5_K_S", "IQ4_NL", "IQ4_XS", "MXFP4", "BF16", "F16",
)  # fmt: skip
"""Which quantisation is taken when none is asked for: the first of these that there is."""

DownloadProgress = Callable[[str, int, int], bool | None]
"""Called with the name of a file, the bytes of it that are here and all of its bytes; returning False cancels."""

_SPLIT = re.compile(r"^(.*)-(\d{5})-of-(\d{5})$", re.DOTALL)
_QUANT = re.compile(
    r"(?:^|[-_./ ])((?:UD-)?(?:I?Q[1-8](?:_[A-Z0-9]+)*|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32))(?=$|[-. /])",
    re.IGNORECASE,
)
_NOT_A_MODEL = re.compile(r"(?:^|[-_./])(?:mmproj|imatrix)(?=[-_./]|$)", re.IGNORECASE)
_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def demo_model_path() -> Path:
    """Return the path of the demo model that the package carries.

    Raises:
        ModelNotFoundError: It was left out of this installation.
    """
    return _carried("demo model", DEMO_MODEL)


def demo_draft_path() -> Path:
    """Return the path of the small model that drafts for the demo model in speculative decoding.

    Raises:
        ModelNotFoundError: It was left out of this installation.
    """
    return _carried("draft model of the demo model", DEMO_DRAFT)


def _carried(what: str, name: str) -> Path:
    path = Path(__file__).parent / "data" / name
    if not path.is_file():
        raise ModelNotFoundError(
            f"the {what} is missing: there is no {path}", hint="reinstall llamacore, or give a model"
        )
    return path


@dataclass(frozen=True)
class RepoModel:
    """A model of a repository: one GGUF file, or all parts of a split one.

    Attributes:
        name: Name of the file; of a split model that of its first part.
        files: All its files in their order, as the repository names them.
        quant: The quantisation that its name tells, in capitals; None when it tells none.
        complete: Whether all parts are there.
    """

    name: str
    files: tuple[str, ...]
    quant: str | None
    complete: bool = True


@dataclass(frozen=True)
class Download:
    """A model that is on this machine.

    Attributes:
        path: The file to load; of a split model its first part, beside which the others lie.
        paths: All its files.
        repo_id: The repository.
        quant: The quantisation that its name tells.
        commit: The commit of the repository; None when files were placed in a folder of your own.
    """

    path: Path
    paths: tuple[Path, ...]
    repo_id: str
    quant: str | None
    commit: str | None


def group_models(names: Sequence[str]) -> tuple[RepoModel, ...]:
    """Sort the files of a repository into models: parts of a split model together, projectors and others left out.

    Args:
        names: Names of files, with folders and "/".
    """
    parts: dict[tuple[str, int], dict[int, str]] = {}
    for name in names:
        if not name.lower().endswith(".gguf") or _NOT_A_MODEL.search(name):
            continue
        split = _SPLIT.match(name[:-5])
        stem, number, count = (split[1], int(split[2]), int(split[3])) if split else (name[:-5], 1, 1)
        parts.setdefault((stem, count if split else 0), {})[number] = name
    models = []
    for (stem, count), files in parts.items():
        complete = set(files) == set(range(1, max(count, 1) + 1))
        ordered = tuple(files[number] for number in sorted(files))
        models.append(RepoModel(ordered[0], ordered, _quant_of(stem), complete))
    return tuple(sorted(models, key=lambda model: model.name))


def _quant_of(stem: str) -> str | None:
    found = _QUANT.findall(stem.rsplit("/", 1)[-1]) or _QUANT.findall(stem)
    return found[-1].upper() if found else None


def choose_model(
    models: Sequence[RepoModel], quant: str | None = None, *, file: str | None = None, where: str = "the repository"
) -> RepoModel:
    """Choose one model.

    Args:
        models: The models there are.
        quant: Its quantisation, in any case; None for the first of `QUANT_PREFERENCE` that there is.
        file: Its name, or a pattern with `*` and `?`; of a split model any part.
        where: What the models are of, for messages.

    Raises:
        ModelNotFoundError: There is no such model, or parts of it are missing; the message lists what there is.
        InvalidArgumentError: Several models fit; the message lists them.
    """
    if file is not None:
        found = [model for model in models if any(_fits(name, file) for name in model.files)]
        what = f"file {file!r}"
    elif quant is not None:
        found = [model for model in models if model.quant is not None and model.quant == quant.upper()]
        what = f"quantisation {quant!r}"
    else:
        found, what = list(models), "GGUF model"
        for preferred in QUANT_PREFERENCE:
            if len(found) > 1 and any(model.quant == preferred for model in models):
                found = [model for model in models if model.quant == preferred]
    if not found:
        listed = ", ".join(_label(model) for model in models)
        raise ModelNotFoundError(
            f"{where} has no {what}", hint=f"it has {listed}" if listed else "it has no GGUF models at all"
        )
    if len(found) > 1:
        raise InvalidArgumentError(
            f"{where} has {len(found)} models for {what}: " + ", ".join(_label(model) for model in found),
            hint="name one with file= (a file name, or a pattern that fits one)",
        )
    if not found[0].complete:
        raise ModelNotFoundError(
            f"{where} lacks parts of {found[0].name}: it has " + ", ".join(found[0].files),
            hint="download it again, or choose another",
        )
    return found[0]


def _fits(name: str, wanted: str) -> bool:
    return fnmatch.fnmatchcase(name, wanted) or fnmatch.fnmatchcase(name.rsplit("/", 1)[-1], wanted)


def _label(model: RepoModel) -> str:
    return f"{model.name} ({model.quant})" if model.quant else model.name


def list_models(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: StrPath | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> tuple[RepoModel, ...]:
    """Return the models of a repository.

    Args:
        repo_id: The repository, "owner/name".
        revision: Branch, tag or commit; None for the main branch.
        cache_dir: Folder of the cache; None for that of huggingface_hub (`HF_HOME`).
        token: Access token; None for the one that is stored or in `HF_TOKEN`, False for none.
        local_files_only: Ask nothing of the network: what is in the cache.

    Raises:
        UnsupportedError: huggingface_hub is not installed.
        ModelNotFoundError: There is no such repository or revision, or nothing of it is in the cache.
        ModelLoadError: The hub could not be reached or refused.
    """
    repo_id, _ = _repo(repo_id)
    with _hub_errors(f"listing {repo_id}"):
        if local_files_only or _hub().constants.HF_HUB_OFFLINE:
            return group_models(_cached(repo_id, revision, cache_dir))
        # one request; listing the tree would retry for half a minute where there is no network
        info = _hub().HfApi(token=token, library_name="llamacore").model_info(repo_id, revision=revision)
        return group_models([item.rfilename for item in info.siblings or ()])


def download(
    repo_id: str,
    quant: str | None = None,
    *,
    file: str | None = None,
    revision: str | None = None,
    cache_dir: StrPath | None = None,
    local_dir: StrPath | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    progress: DownloadProgress | None = None,
) -> Download:
    """Bring a model of the Hugging Face Hub to this machine; files that are here are not fetched again.

    Interrupted downloads go on where they stopped. `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` work as
    huggingface_hub has them.

    Args:
        repo_id: The repository, "owner/name", or "owner/name:quant".
        quant: Quantisation in any case ("q4_k_m"); None for the first of `QUANT_PREFERENCE` that there is.
        file: Name of the file, or a pattern with `*`, instead of a quantisation.
        revision: Branch, tag or commit; None for the main branch.
        cache_dir: Folder of the cache; None for that of huggingface_hub.
        local_dir: Folder to place the files in instead of the cache.
        token: Access token; None for the one that is stored or in `HF_TOKEN`, False for none.
        local_files_only: Ask nothing of the network: use what is in the cache.
        progress: Called as bytes arrive.

    Returns:
        Where its files are. Projectors (`mmproj`) and importance matrices are never taken for the model.

    Raises:
        UnsupportedError: huggingface_hub is not installed.
        ModelNotFoundError: There is no such repository, revision, quantisation or file; or it is not in the cache.
        InvalidArgumentError: Several models fit; the message lists them.
        LoadCancelledError: `progress` returned False.
        ModelLoadError: The hub could not be reached or refused, or the disk is full.
    """
    repo_id, tagged = _repo(repo_id)
    if sum(wanted is not None for wanted in (quant, file, tagged)) > 1:
        raise InvalidArgumentError(f"quant={quant or tagged!r} and file={file!r}", hint="give one of them")
    where = f"the repository {repo_id}" + (f" at {revision}" if revision else "")
    hub = _hub()
    if progress is not None and "tqdm_class" not in signature(hub.hf_hub_download).parameters:
        raise UnsupportedError(
            f"huggingface_hub {hub.__version__} does not report progress", hint="pip install -U huggingface_hub"
        )
    local_files_only = local_files_only or hub.constants.HF_HUB_OFFLINE
    models = list_models(
        repo_id, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
    )
    if local_files_only:
        where += " in the cache"
    model = choose_model(models, quant if quant is not None else tagged, file=file, where=where)
    paths: list[Path] = []
    for name in model.files:
        with _hub_errors(f"downloading {name} of {repo_id}"):
            got = hub.hf_hub_download(
                repo_id,
                name,
                revision=revision,
                cache_dir=cache_dir,
                local_dir=local_dir,
                token=token,
                local_files_only=local_files_only,
                **({} if progress is None else {"tqdm_class": _reporter(name, progress)}),
            )
        paths.append(Path(got))
    snapshot = re.search(r"[/\\]snapshots[/\\]([0-9a-f]{40})[/\\]", os.fspath(paths[0])) if local_dir is None else None
    return Download(paths[0], tuple(paths), repo_id, model.quant, snapshot[1] if snapshot else None)


def _repo(repo_id: str) -> tuple[str, str | None]:
    """Take "owner/name:quant" apart."""
    name, _, tag = str(repo_id).removeprefix("hf:").partition(":")
    if not _REPO.fullmatch(name) or ".." in name:
        raise InvalidArgumentError(f"repo_id={repo_id!r}", hint='give "owner/name", as the hub shows it')
    return name, tag or None


def _hub() -> Any:
    try:
        hub = import_module("huggingface_hub")
        import_module("huggingface_hub.constants")
        import_module("huggingface_hub.errors")
    except ImportError as exc:
        raise UnsupportedError(
            "models of the Hugging Face Hub need the package huggingface_hub",
            hint="pip install 'llamacore[hub]', or give the path of a file",
        ) from exc
    return hub


def _cached(repo_id: str, revision: str | None, cache_dir: StrPath | None) -> list[str]:
    """Names of the files of a repository that are in the cache."""
    folder = Path(_hub().snapshot_download(repo_id, revision=revision, cache_dir=cache_dir, local_files_only=True))
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _reporter(name: str, progress: DownloadProgress) -> type[Any]:
    """A progress bar class for huggingface_hub that draws nothing and reports to `progress`."""
    tqdm: Any = import_module("tqdm.auto").tqdm  # comes with huggingface_hub

    class Reporter(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            options["disable"] = False
            options["file"] = _Nowhere()
            options.pop("name", None)
            super().__init__(*args, **options)

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if progress(name, int(self.n), int(self.total or 0)) is False:
                raise LoadCancelledError(f"downloading {name}: cancelled by the progress callback")
            return shown

    return Reporter


class _Nowhere:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        """Nothing is kept."""


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into our errors."""
    errors = _hub().errors
    try:
        yield
    except errors.GatedRepoError as exc:
        raise ModelLoadError(
            f"{what}: access is restricted", hint="accept its terms on the hub, and give token= or set HF_TOKEN"
        ) from exc
    except errors.RevisionNotFoundError as exc:
        raise ModelNotFoundError(f"{what}: there is no such revision", hint="check revision=") from exc
    except errors.RepositoryNotFoundError as exc:
        raise ModelNotFoundError(
            f"{what}: there is no such repository", hint="check its name; for a private one give token="
        ) from exc
    except errors.LocalEntryNotFoundError as exc:
        raise ModelNotFoundError(
            f"{what}: it is not in the cache, and the hub was not asked or could not be reached",
            hint="leave local_files_only (or HF_HUB_OFFLINE) out once to fetch it",
        ) from exc
    except errors.EntryNotFoundError as exc:
        raise ModelNotFoundError(f"{what}: the repository has no such file", hint="check file=") from exc
    except errors.HFValidationError as exc:
        raise InvalidArgumentError(f"{what}: {exc}", hint='give "owner/name", as the hub shows it') from exc
    except (ModelLoadError, ModelNotFoundError, LoadCancelledError):
        raise
    except Exception as exc:
        if not _is_transport(exc):
            raise
        raise ModelLoadError(
            f"{what}: {type(exc).__name__}: {exc}", hint="check the network, or use local_files_only=True"
        ) from exc


def _is_transport(exc: Exception) -> bool:
    """Whether an exception is of the network or the disk: the HTTP client differs between versions of the hub."""
    return isinstance(exc, OSError) or type(exc).__module__.startswith(("httpx", "requests", "huggingface_hub"))
