"""Models split into several files, by upstream's names."""

from __future__ import annotations

import os
import re

from ..errors import InvalidArgumentError, OutOfRangeError
from ..params import StrPath


def split_path(prefix: str, split_no: int, split_count: int) -> str:
    """Return upstream's name of a part of a split model.

    Args:
        prefix: Path and name of the model, without the suffix.
        split_no: Number of the part, from 0.
        split_count: Number of parts.

    Raises:
        OutOfRangeError: There is no such part.
    """
    if not 0 <= split_no < split_count:
        raise OutOfRangeError(f"part {split_no} of {split_count}", hint=f"parts are 0 to {split_count - 1}")
    return f"{prefix}-{split_no + 1:05d}-of-{split_count:05d}.gguf"


def split_prefix(path: StrPath) -> tuple[str, int, int] | None:
    """Take the name of a split apart: prefix, number from 0 and count; None when it is not upstream's pattern."""
    match = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", os.fspath(path), re.DOTALL)
    return (match[1], int(match[2]) - 1, int(match[3])) if match else None


def all_parts(paths: tuple[str, ...]) -> list[str]:
    """Return every file that loading `paths` will read: the paths themselves, or all parts that a first part names.

    Raises:
        InvalidArgumentError: The only path is of a part that is not the first.
    """
    split = split_prefix(paths[0])
    if len(paths) > 1 or split is None:
        return list(paths)
    prefix, number, count = split
    if number != 0:
        raise InvalidArgumentError(
            f"{paths[0]} is part {number + 1} of {count}", hint=f"load the first part, {split_path(prefix, 0, count)}"
        )
    return [split_path(prefix, i, count) for i in range(count)]
