"""Grammars in GBNF: checking them, and making them from JSON schemas."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import GrammarError, InvalidArgumentError
from . import backend, log, sampler_checks, trigger_patterns
from ._native import ffi, lib, text
from ._status import raise_status

if TYPE_CHECKING:
    from .model import Model

# Upstream's parsers recurse; these bounds keep them far from the end of a small stack, and from hours of work.
MAX_GRAMMAR_BYTES = 2**18
MAX_SCHEMA_NESTING = 200  # levels, those that references lead to included
MAX_SCHEMA_NODES = 50_000
MAX_PROPERTIES = 256  # of one object: the grammar grows with the square of the optional ones
MAX_NAME = 256  # characters of a property name or reference

Schema = str | Mapping[str, Any]


def _c_string(what: str, value: str, limit: int) -> Any:
    try:
        raw = sampler_checks.utf8(what, value)
    except InvalidArgumentError as exc:
        raise GrammarError(exc.message, hint=exc.hint) from None
    if len(raw) > limit:
        raise GrammarError(f"{what} has {len(raw)} bytes", hint=f"at most {limit} are taken")
    return ffi.new("char[]", raw)


def native_sampler(vocab: Any, grammar: str, root: str, patterns: Sequence[str], tokens: Sequence[int]) -> Any:
    """Make a native grammar sampler; the caller owns the pointer and holds the model of the vocabulary open."""
    if isinstance(patterns, str):
        raise GrammarError("trigger_patterns is one string", hint="give a list of strings")
    gbnf = _c_string("the grammar", grammar, MAX_GRAMMAR_BYTES)
    if not grammar.strip():
        raise GrammarError("the grammar is empty", hint="give at least a rule root ::= ...")
    start = _c_string("the name of the root rule", root, MAX_NAME)
    triggers = []
    for pattern in patterns:
        _c_string("a trigger pattern", pattern, trigger_patterns.MAX_BYTES)
        triggers.append(ffi.new("char[]", trigger_patterns.bounded(pattern).encode()))
    array = ffi.new("const char *[]", triggers)
    out = ffi.new("struct llama_sampler **")
    mark = log.mark()
    status = lib.llc_sampler_grammar(
        vocab, gbnf, start, array, len(triggers), ffi.new("llama_token[]", list(tokens)), len(tokens), out
    )
    if status != lib.LLC_OK:
        raise_status(status, "the grammar cannot be used", GrammarError, mark=mark, hint="correct the grammar")
    return out[0]


def check_gbnf(model: Model, grammar: str, root: str = "root") -> None:
    """Check that a grammar can be used with a model.

    Args:
        model: Model whose vocabulary tokens in the grammar (`<name>`, `<[id]>`) refer to.
        grammar: The grammar in GBNF.
        root: Name of the rule to start from.

    Raises:
        GrammarError: It does not parse, refers to a rule that is not there, or is left-recursive.
    """
    model._enter()
    try:
        lib.llama_sampler_free(native_sampler(model._vocab_ptr, grammar, root, (), ()))
    finally:
        model._exit()


def json_schema_to_gbnf(schema: Schema) -> str:
    """Turn a JSON schema into a grammar, with upstream's converter.

    Args:
        schema: The schema, as JSON text or as what `json.loads` makes of it.

    Returns:
        The grammar in GBNF; its start is the rule `root`.

    Raises:
        GrammarError: The schema is no JSON, is too large or too deep, or says something that upstream cannot express.
    """
    schema = checked_schema(schema)
    try:
        raw = json.dumps(schema, allow_nan=False, default=dict).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise GrammarError(f"the JSON schema is not valid JSON: {exc}") from exc
    return _convert(raw)


def checked_schema(schema: Schema) -> Mapping[str, Any]:
    """Return a JSON schema as an object, once it is known that upstream's recursive converter can take it.

    Raises:
        GrammarError: It is no JSON object, or is too large or too deep.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as exc:
            raise GrammarError(f"the JSON schema is not valid JSON: {exc}") from exc
    if not isinstance(schema, Mapping):
        raise GrammarError(f"the JSON schema is a {type(schema).__name__}", hint="give an object, or its JSON text")
    _SchemaWalk(schema).check()
    return schema


@functools.lru_cache(maxsize=32)
def _convert(schema: bytes) -> str:
    backend.init()
    out = ffi.new("char **")
    status = lib.llc_json_schema_to_gbnf(ffi.new("char[]", schema), out)
    if status != lib.LLC_OK:
        raise_status(status, "the JSON schema cannot be turned into a grammar", GrammarError)
    try:
        return text(out[0])
    finally:
        lib.llc_string_free(out[0])


class _SchemaWalk:
    """Bounds on a schema, found before upstream's recursive converter sees it."""

    def __init__(self, schema: Any) -> None:
        self.root = schema
        self.nodes = 0
        self.open_refs: set[str] = set()
        self.deepest: dict[str, int] = {}  # reference: level at which it was walked

    def check(self) -> None:
        self._walk(self.root, 1)

    def _walk(self, node: Any, level: int) -> None:
        self.nodes += 1
        if level > MAX_SCHEMA_NESTING:
            raise GrammarError(f"the JSON schema is nested deeper than {MAX_SCHEMA_NESTING} levels")
        if self.nodes > MAX_SCHEMA_NODES:
            raise GrammarError(f"the JSON schema has more than {MAX_SCHEMA_NODES} nodes", hint="make it smaller")
        if isinstance(node, Mapping):
            properties = node.get("properties")
            if isinstance(properties, Mapping) and len(properties) > MAX_PROPERTIES:
                raise GrammarError(
                    f"an object of the JSON schema has {len(properties)} properties",
                    hint=f"at most {MAX_PROPERTIES} are taken; group some into objects of their own",
                )
            for key, value in node.items():
                if not isinstance(key, str) or len(key) > MAX_NAME:
                    raise GrammarError(
                        f"the JSON schema has the key {str(key)[:40]!r}",
                        hint=f"keys are strings of at most {MAX_NAME} characters",
                    )
                if key == "$ref" and isinstance(value, str):
                    self._follow(value, level + 2)
                else:
                    self._walk(value, level + 1)
        elif isinstance(node, (list, tuple)):
            for value in node:
                self._walk(value, level + 1)

    def _target(self, ref: str) -> Any:
        """What a reference points at; None where upstream will find nothing either."""
        if not ref.startswith("#"):
            return None
        target = self.root
        for part in ref[1:].strip("/").split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, Mapping) and name in target:
                target = target[name]
            elif isinstance(target, (list, tuple)) and name.isdigit() and int(name) < len(target):
                target = target[int(name)]
            elif name:
                return None
        return target

    def _follow(self, ref: str, level: int) -> None:
        if len(ref) > MAX_NAME:
            raise GrammarError(f"a $ref of the JSON schema has {len(ref)} characters", hint=f"at most {MAX_NAME}")
        target, chain = self._target(ref), {ref}
        while isinstance(target, Mapping) and isinstance(target.get("$ref"), str):
            following = target["$ref"]
            if following in chain:
                raise GrammarError(f"the reference {ref!r} of the JSON schema leads back to itself")
            chain.add(following)
            if len(chain) > MAX_SCHEMA_NESTING:
                raise GrammarError(f"the JSON schema is nested deeper than {MAX_SCHEMA_NESTING} levels")
            target = self._target(following)
        if ref in self.open_refs or self.deepest.get(ref, 0) >= level:
            return  # upstream stops at a reference that is being resolved
        self.deepest[ref] = level
        self.open_refs.add(ref)
        self._walk(self._target(ref), level)
        self.open_refs.discard(ref)
