"""Reading the parameters that requests share: each is checked here, and unknown ones are errors."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from ..errors import InvalidArgumentError, UnsupportedError
from ..sampling import SamplingParams

Value = TypeVar("Value")

SAMPLING_ALIASES: Mapping[str, str] = {
    "frequency_penalty": "penalty_freq",
    "presence_penalty": "penalty_present",
    "repeat_penalty": "penalty_repeat",
    "repetition_penalty": "penalty_repeat",
    "repeat_last_n": "penalty_last_n",
    "typical_p": "typ_p",
    "mirostat_mode": "mirostat",
}
"""Other names of fields of `SamplingParams`, which are taken under their own name too."""

SCHEDULING = ("min_tokens", "priority", "deadline", "time_limit", "overflow", "n_keep", "cache_prompt")
"""Parameters of a generation that are handed on as they are."""

NO_EFFECT = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""Parameters about the account or the service behind an API: accepted, and without meaning here."""

_SAMPLING = frozenset(item.name for item in dataclasses.fields(SamplingParams)) - {"logit_bias", "seed", "json_schema"}
_GONE: Mapping[str, tuple[Any, str]] = {
    "tfs_z": (1.0, "llama.cpp has no tail-free sampling any more: use top_p, min_p or typical_p"),
    "stopping_criteria": (None, "use stop=, max_tokens= or time_limit=, or iterate a stream and leave it"),
    "logits_processor": (None, "use logit_bias=, grammar= or samplers=, or the decode loop of Context and Sampler"),
    "json_schema": (None, 'use response_format={"type": "json_schema", "json_schema": {"schema": ...}}'),
    "functions": (None, 'use tools=[{"type": "function", "function": ...}]'),
    "function_call": (None, "use tool_choice="),
    "modalities": (None, "text only"),
    "audio": (None, "text only"),
    "prediction": (None, "leave it out"),
    "web_search_options": (None, "give a tool that searches"),
}
_MAX_STOPS = 64


@dataclass
class Parameters:
    """The parameters of one request while they are read: each is taken out once, and none may be left.

    None means that a parameter is not given, as null does in JSON.

    Args:
        call: Name of the call, for messages.
        given: The parameters.
    """

    call: str
    given: Mapping[str, Any]
    _taken: set[str] = field(default_factory=set)

    def take(self, name: str, default: Any = None) -> Any:
        """Take a parameter as it is."""
        self._taken.add(name)
        value = self.given.get(name)
        return default if value is None else value

    def fail(self, name: str, hint: str) -> NoReturn:
        """Say that a parameter is wrong."""
        shown = repr(self.given.get(name))
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        raise InvalidArgumentError(f"{self.call}: {name}={shown}", hint=hint)

    def flag(self, name: str, default: bool = False) -> bool:
        """Take True or False."""
        value = self.take(name, default)
        if value is not True and value is not False:
            self.fail(name, "give True or False")
        return bool(value)

    def whole(self, name: str, default: Value, lowest: int, highest: int = 2**31 - 1) -> int | Value:
        """Take a whole number."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not hasattr(value, "__index__") or not lowest <= value <= highest:
            self.fail(name, f"give a whole number from {lowest} to {highest}")
        return int(value)

    def text(self, name: str) -> str | None:
        """Take a text."""
        value = self.take(name)
        if value is not None and not isinstance(value, str):
            self.fail(name, "give a text")
        return value

    def max_tokens(self, default: int | None, *names: str) -> int | None:
        """Take the limit of tokens under one of its names; -1 and a given None mean no limit."""
        present = [name for name in names if name in self.given]
        values = {self.whole(name, -1, -1) for name in names if name in self.given}
        if len(values) > 1:
            self.fail(present[0], f"it differs from {present[1]}: give one of them")
        self._taken.update(names)
        if not values:
            return default
        (value,) = values
        return None if value == -1 else value

    def stop(self) -> tuple[str, ...]:
        """Take the stop strings: one, several or none."""
        value = self.take("stop", ())
        stops = (value,) if isinstance(value, str) else value
        if isinstance(stops, (Mapping, bytes)) or not isinstance(stops, Iterable):
            self.fail("stop", "give a text or a list of texts")
        stops = tuple(stops)
        if len(stops) > _MAX_STOPS or not all(isinstance(item, str) and item for item in stops):
            self.fail("stop", f"give at most {_MAX_STOPS} texts, none of them empty")
        return stops

    def seed(self) -> int | None:
        """Take the seed: any whole number, negative for a random one."""
        value = self.take("seed")
        if value is None:
            return None
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            self.fail("seed", "give a whole number")
        return None if value < 0 else int(value) % 2**32

    def include_usage(self, stream: bool) -> bool:
        """Take `stream_options`."""
        value = self.take("stream_options")
        if value is None:
            return False
        if not isinstance(value, Mapping) or set(value) - {"include_usage", "include_obfuscation"}:
            self.fail("stream_options", 'give {"include_usage": True}')
        if not stream:
            self.fail("stream_options", "it is for stream=True")
        return bool(value.get("include_usage"))

    def sampling(self) -> dict[str, Any]:
        """Take everything that `SamplingParams` knows, under its names and the API's, but the seed.

        Raises:
            InvalidArgumentError: Two names of one parameter are given.
        """
        found: dict[str, Any] = {}
        for name in (*sorted(_SAMPLING), *SAMPLING_ALIASES):
            value = self.take(name)
            if value is None:
                continue
            target = SAMPLING_ALIASES.get(name, name)
            if target in found:
                self.fail(name, f"{target} is given as well: give one of them")
            found[target] = value
        if "grammar" in found and not isinstance(found["grammar"], str):
            self.fail("grammar", "give the text of a GBNF grammar")
        bias = self._logit_bias()
        if bias:
            found["logit_bias"] = bias
        return found

    def _logit_bias(self) -> dict[int, float]:
        value = self.take("logit_bias", {})
        if not isinstance(value, Mapping):
            self.fail("logit_bias", "give a mapping of token ids to numbers")
        found = {}
        for key, bias in value.items():
            token = str(key)
            if not token.isascii() or not token.isdigit():
                self.fail("logit_bias", f"{key!r} is no token id")
            if bias is False:
                bias = -math.inf
            if isinstance(bias, bool) or not isinstance(bias, (int, float)):
                self.fail("logit_bias", f"the bias of {key} is {bias!r}: give a number, or False to forbid it")
            found[int(token)] = float(bias)
        return found

    def scheduling(self) -> dict[str, Any]:
        """Take what is handed on to the engine as it is."""
        found = {name: self.take(name) for name in SCHEDULING}
        return {name: value for name, value in found.items() if value is not None}

    def finish(self) -> None:
        """Say what was not taken.

        Raises:
            UnsupportedError: A parameter of another library that cannot be honoured.
            InvalidArgumentError: A parameter is unknown; the message names the nearest ones.
        """
        self._taken.update(NO_EFFECT)
        for name, value in self.given.items():
            if name in self._taken:
                continue
            if name in _GONE:
                neutral, hint = _GONE[name]
                if value is None or value == neutral or (isinstance(value, Sequence) and not value):
                    continue
                raise UnsupportedError(f"{self.call}: {name} is not supported", hint=hint)
            near = difflib.get_close_matches(str(name), sorted(self._taken), n=3)
            raise InvalidArgumentError(
                f"{self.call}: there is no parameter {name!r}",
                hint="did you mean " + " or ".join(map(repr, near)) + "?"
                if near
                else "see the docstring for all of them",
            )


def token_list(value: Any) -> tuple[int, ...] | None:
    """Return a list of token ids, None when it is something else; an empty list is one of no texts."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        return None
    if all(hasattr(item, "__index__") and not isinstance(item, bool) for item in value):
        return tuple(int(item) for item in value)
    return None


def texts(name: str, value: Any, fail: Callable[[str, str], NoReturn]) -> tuple[str | tuple[int, ...], ...]:
    """Read one text, several, one list of token ids, or several."""
    if isinstance(value, str):
        return (value,)
    tokens = token_list(value)
    if tokens is not None:
        return (tokens,)
    if isinstance(value, Sequence) and not isinstance(value, bytes) and value:
        items = [item if isinstance(item, str) else token_list(item) for item in value]
        if all(item is not None for item in items):
            return tuple(item for item in items if item is not None)
    return fail(name, "give a text, a list of texts, a list of token ids, or a list of such lists")
