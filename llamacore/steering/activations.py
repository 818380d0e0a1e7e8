"""Layer outputs of many texts: collected with a tap, kept in arrays, written to `.npz` files."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import sampler_checks
from ..core.batch import Batch
from ..core.model import Model
from ..core.tap import LayerTap, Rows
from ..errors import AbortedError, InvalidArgumentError, LlamaCoreError, UnsupportedError
from ..params import StrPath

Texts = Sequence["str | Sequence[int]"]
Progress = Callable[[int, int], "bool | None"]

_ROWS_TOGETHER = 512
_OUTPUTS_TOGETHER = 64  # each takes the logits of a whole vocabulary
_TEXTS_TOGETHER = 16
_FORMAT = "llamacore-activations"


@dataclass(frozen=True, eq=False)
class Activations:
    """Layer outputs of some texts.

    Attributes:
        values: float32 [rows, n_embd] by layer.
        texts: int32 [rows], which text a row belongs to.
        positions: int32 [rows], its position in the text; of a mean, the last one that counted.
        tokens: int32 [rows], the token there.
        metadata: What they come from: `model`, `arch`, `rows`, `n_texts` and whatever else was written.
    """

    values: Mapping[int, NDArray[np.float32]]
    texts: NDArray[np.int32]
    positions: NDArray[np.int32]
    tokens: NDArray[np.int32]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that there are, ascending."""
        return tuple(sorted(self.values))

    def save(self, path: StrPath) -> Path:
        """Write a `.npz` file, aside first and then in place.

        Its arrays are `layer_N`, `texts`, `positions`, `tokens` and `metadata` (JSON text).

        Raises:
            OSError: It cannot be written.
        """
        target = Path(path)
        aside = target.with_name(f"{target.name}.{os.getpid()}.part")
        described = {**self.metadata, "format": _FORMAT, "layers": list(self.layers)}
        arrays: dict[str, Any] = {f"layer_{layer}": self.values[layer] for layer in self.layers}
        arrays |= {"texts": self.texts, "positions": self.positions, "tokens": self.tokens}
        try:
            with open(aside, "wb") as file:
                np.savez(file, metadata=np.array(json.dumps(described, ensure_ascii=False)), **arrays)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
        return target

    @classmethod
    def load(cls, path: StrPath) -> Activations:
        """Read what `save` wrote.

        Raises:
            OSError: The file cannot be read.
            InvalidArgumentError: It is no such file, or damaged.
        """
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
                metadata = json.loads(str(file["metadata"]))
                if metadata.pop("format") != _FORMAT:
                    raise ValueError("another format")
                texts, positions, tokens = rows = [
                    np.asarray(file[name], dtype=np.int32) for name in ("texts", "positions", "tokens")
                ]
                values = {
                    int(layer): np.asarray(file[f"layer_{int(layer)}"], np.float32) for layer in metadata.pop("layers")
                }
        except (ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as exc:
            raise InvalidArgumentError(
                f"{os.fspath(path)} has no activations: {exc}", hint="`llamacore capture` writes such files"
            ) from exc
        if any(part.shape != rows[0].shape for part in rows) or any(
            part.ndim != 2 or len(part) != len(rows[0]) for part in values.values()
        ):
            raise InvalidArgumentError(f"{os.fspath(path)} has arrays of unequal lengths", hint="write it again")
        return cls(values, texts, positions, tokens, metadata)


def capture_activations(
    model: Model,
    texts: Texts,
    layers: Sequence[int],
    *,
    rows: Rows = "last",
    n_threads: int | None = None,
    progress: Progress | None = None,
) -> Activations:
    """Run texts through a model and collect layer outputs, in a context of its own.

    Args:
        model: A model that decodes; the caller closes it.
        texts: Texts or lists of token ids. A text is tokenised with control tokens read as such.
        layers: Layers counted from 0, the last one too.
        rows: "last", "first" or "mean" give one row for each text; "all" gives one for each token.
        n_threads: Threads; None for the number of physical cores.
        progress: Called with the texts done and their number; False ends it.

    Returns:
        Activations: Its rows in the order of the texts.

    Raises:
        InvalidArgumentError: There is no text or no layer, a text has no tokens, or an unknown one.
        OutOfRangeError: The model has no such layer.
        UnsupportedError: The model does not decode, or its architecture does not name the output of a layer.
        AbortedError: `progress` returned False.
    """
    if not model.has_decoder:
        raise UnsupportedError("this model only encodes", hint="use a model that generates text")
    if not layers:
        raise InvalidArgumentError("there is no layer to capture", hint="give at least one")
    tokenized = [_tokens(model, text, number) for number, text in enumerate(texts)]
    if not tokenized:
        raise InvalidArgumentError("there is no text", hint="give at least one")
    # of the last layer upstream computes the output rows alone
    wants_last = max(sampler_checks.whole("a layer", layer, 0) for layer in layers) == model.n_layer - 1
    every = wants_last and rows in ("all", "mean", "first")
    n_batch = _OUTPUTS_TOGETHER if every else _ROWS_TOGETHER
    groups = list(_groups(tokenized, n_batch))
    n_ctx = max(sum(len(tokenized[i]) for i in group) for group in groups)
    n_seq = max(map(len, groups))
    tap = LayerTap(layers, rows)
    found: dict[int, list[NDArray[np.float32]]] = {layer: [] for layer in sorted(set(layers))}
    where: list[NDArray[np.int32]] = []
    with model.context(
        n_ctx=n_ctx, n_batch=n_batch, n_ubatch=n_batch, n_seq_max=n_seq, kv_unified=True, n_threads=n_threads,
        n_outputs_max=n_batch if every else n_seq, capture=tap,
    ) as ctx:  # fmt: skip
        batch = Batch(n_batch, n_seq_max=n_seq)
        done = 0
        for group in groups:
            ctx.memory.clear()
            tap.restart()
            kept: list[tuple[dict[int, NDArray[np.float32]], NDArray[np.int32]]] = []
            for part in _parts([tokenized[i] for i in group], n_batch):
                batch.clear()
                for seq_id, pos, token in part:
                    last = pos == len(tokenized[group[seq_id]]) - 1
                    batch.add(token, pos, (seq_id,), output=every or (wants_last and last))
                ctx.decode(batch)
                if rows == "all":
                    kept.append(_read(tap, found))
            if rows != "all":
                kept.append(_read(tap, found))
            _append(kept, group, found, where)
            done += len(group)
            if progress is not None and progress(done, len(tokenized)) is False:
                raise AbortedError("collecting activations: cancelled", hint="nothing is kept")
    tap.close()
    numbers, positions = np.concatenate(where, axis=1)
    tokens = np.array([tokenized[i][pos] for i, pos in zip(numbers, positions, strict=True)], dtype=np.int32)
    metadata = {"model": os.path.basename(model.paths[0]), "arch": model.arch, "rows": rows, "n_texts": len(tokenized)}
    return Activations(
        {layer: np.concatenate(parts) for layer, parts in found.items()}, numbers, positions, tokens, metadata
    )


def _tokens(model: Model, text: str | Sequence[int], number: int) -> list[int]:
    try:
        found = (
            model.vocab.tokenize(text, parse_special=True)
            if isinstance(text, str)
            else [sampler_checks.whole("a token", token, 0, model.n_vocab - 1) for token in text]
        )
    except LlamaCoreError:
        raise
    except TypeError as exc:
        raise InvalidArgumentError(f"text {number} is {text!r}", hint="give strings or lists of token ids") from exc
    if not found:
        raise InvalidArgumentError(f"text {number} has no tokens", hint="leave it out")
    return found


def _groups(tokenized: Sequence[Sequence[int]], limit: int) -> Iterator[list[int]]:
    """Texts that are decoded together: as many as fit into a batch, a longer one by itself."""
    group: list[int] = []
    size = 0
    for number, tokens in enumerate(tokenized):
        if group and (size + len(tokens) > limit or len(group) == _TEXTS_TOGETHER):
            yield group
            group, size = [], 0
        group.append(number)
        size += len(tokens)
    yield group


def _parts(texts: Sequence[Sequence[int]], limit: int) -> Iterator[list[tuple[int, int, int]]]:
    """The rows of a group, sequence, position and token, in batches."""
    rows = [(seq_id, pos, token) for seq_id, text in enumerate(texts) for pos, token in enumerate(text)]
    for first in range(0, len(rows), limit):
        yield rows[first : first + limit]


def _read(tap: LayerTap, layers: Mapping[int, object]) -> tuple[dict[int, NDArray[np.float32]], NDArray[np.int32]]:
    kept = {layer: tap.read(layer) for layer in layers}
    one = next(iter(kept.values()))
    return {layer: rows.values for layer, rows in kept.items()}, np.stack([one.seq_ids, one.positions])


def _append(
    kept: Sequence[tuple[dict[int, NDArray[np.float32]], NDArray[np.int32]]],
    group: Sequence[int],
    found: dict[int, list[NDArray[np.float32]]],
    where: list[NDArray[np.int32]],
) -> None:
    for values, places in kept:
        for layer, rows in values.items():
            found[layer].append(rows)
        where.append(np.stack([np.array(group, dtype=np.int32)[places[0]], places[1]]))
