from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamacore.core.grammar import MAX_GRAMMAR_BYTES, MAX_PROPERTIES, check_gbnf, json_schema_to_gbnf
from llamacore.core.model import Model
from llamacore.core.sampler import Sampler
from llamacore.core.trigger_patterns import bounded
from llamacore.errors import ClosedError, GrammarError, SamplingError
from llamacore.hub import demo_model_path


def fits(model: Model, gbnf: str, text: str) -> bool:
    """Whether the grammar takes the whole text, and the end of the text after it."""
    sampler = Sampler.grammar(model, gbnf)
    eos = model.vocab.eos
    assert eos is not None
    try:
        for token in [*model.vocab.tokenize(text, add_special=False), eos]:
            sampler.accept(token)
    except SamplingError:
        return False
    finally:
        sampler.close()
    return True


# GBNF


@pytest.mark.parametrize(
    "gbnf",
    [
        'root ::= "a"',
        "root ::= [a-z]+ | [^0-9]{2,5}",
        '# comment\n\nroot ::= word (" " word)*\nword ::= "x"',
        "root ::= <|im_start|> <[5]> !<|im_end|>",
        "root ::= .*",
        "root ::=",
    ],
)
def test_sound_grammars(model: Model, gbnf: str) -> None:
    check_gbnf(model, gbnf)


@pytest.mark.parametrize(
    ("gbnf", "why"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("# nothing", "no rules"),
        ('root ::= "a', "line 1"),
        ('root ::= "a"\nother ::= [a', "line 2"),
        ('root = "a"', "expecting ::="),
        ("root ::= missing", "'missing'"),
        ('start ::= "a"', "'root'"),
        ('root ::= root "a"', "left-recursive"),
        ('root ::= a\na ::= root? "x"', "left-recursive"),
        ("root ::= (" * 300, "nested"),
        ("root ::= a0\n" + "".join(f"a{i} ::= a{i + 1}\n" for i in range(2000)) + 'a2000 ::= "x"', "levels deep"),
        (
            "root ::= a0\n" + "".join(f"a{i} ::= a{i + 1} | a{i + 1}\n" for i in range(60)) + 'a60 ::= "x"',
            "ways to start",
        ),
        ('root ::= "a"{5000}', "repetitions"),
        ('root ::= ("a"{1,500}){500}', "repeat"),
        ('root ::= "\\q"', "escape"),
        ("root ::= <no-such-token>", "token"),
        ("root ::= <[123456789123]>", "token"),
        ('root ::= "a" # ' + "x" * MAX_GRAMMAR_BYTES, "bytes"),
    ],
)
def test_unsound_grammars(model: Model, gbnf: str, why: str) -> None:
    with pytest.raises(GrammarError, match=why):
        check_gbnf(model, gbnf)


def test_grammars_that_upstream_ships(model: Model, upstream_source: Path) -> None:
    files = sorted((upstream_source / "grammars").glob("*.gbnf"))
    assert {file.stem for file in files} >= {"arithmetic", "c", "chess", "japanese", "json", "json_arr", "list"}
    for file in files:
        check_gbnf(model, file.read_text())


def test_nothing_is_printed(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    for gbnf in ('root ::= "a', "root ::= missing", 'root ::= root "a"'):
        with pytest.raises(GrammarError):
            check_gbnf(model, gbnf)
    assert capfd.readouterr() == ("", "")


def test_another_root(model: Model) -> None:
    check_gbnf(model, 'start ::= "a"', root="start")


def test_closed_model() -> None:
    model = Model.load(demo_model_path(), vocab_only=True)
    check_gbnf(model, 'root ::= "a"')
    model.close()
    with pytest.raises(ClosedError):
        check_gbnf(model, 'root ::= "a"')


# trigger patterns


@pytest.mark.parametrize(
    ("pattern", "safe"),
    [
        ("<tool_call>", "<tool_call>"),
        (r"[\s\S]*?(<call>)[\s\S]*", "(<call>)"),
        (r"^[\s\S]*?(<call>)[\s\S]*$", "(<call>)"),
        (r"<call>\s*(\{)", r"<call>\s{0,1000}(\{)"),
        (r"a+b{2,}c{3}", "a{1,1000}b{2,1000}c{3}"),
        (r"a*?b", "a{0,1000}?b"),
        (r"\*[*+{]", r"\*[*+{]"),
    ],
)
def test_patterns_are_bounded(pattern: str, safe: str) -> None:
    assert bounded(pattern) == safe


@pytest.mark.parametrize("pattern", [".*a", r"[\s\S]*a", r"\S+", "[^x]{2,}", "a.+", "(" * 40])
def test_patterns_that_cannot_be_bounded(model: Model, pattern: str) -> None:
    with pytest.raises(GrammarError):
        Sampler.grammar(model, 'root ::= "a"', trigger_patterns=[pattern])


@pytest.mark.slow
def test_long_text_before_a_trigger(model: Model) -> None:
    # without a bound, std::regex overflows the stack at some 45,000 characters
    sampler = Sampler.grammar(model, 'root ::= "x"', trigger_patterns=[r"^[\s\S]*?(qqq)\s*$"])
    (token,) = model.vocab.tokenize(" grandmother", add_special=False)
    for _ in range(4500):
        sampler.accept(token)


# JSON schemas

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (PERSON, '{"name": "Ann", "age": 7}', '{"name": "Ann"}'),
        (PERSON, '{"name":"","age":150}', '{"name": "Ann", "age": 151}'),
        ({"type": "boolean"}, "true", "maybe"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3}, "[1, 2]", "[1]"),
        ({"enum": ["red", "blue"]}, '"red"', '"green"'),
        ({"const": 5}, "5", "6"),
        ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, "null", '"x"'),
        ({"type": "string", "pattern": "^[ab]{2}$"}, '"ab"', '"abc"'),
        ({"type": "string", "format": "date"}, '"2024-01-31"', '"yesterday"'),
        (
            {
                "$ref": "#/$defs/n",
                "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": []}},
            },
            '{"n": {}}',
            '{"m": 1}',
        ),
        ({}, '{"any": [1, null]}', "any"),
    ],
)
def test_schemas(model: Model, schema: dict[str, Any], good: str, bad: str) -> None:
    gbnf = json_schema_to_gbnf(schema)
    assert gbnf == json_schema_to_gbnf(json.dumps(schema))
    check_gbnf(model, gbnf)
    assert fits(model, gbnf, good)
    assert not fits(model, gbnf, bad)


def test_a_grammar_steers_sampling_to_valid_json(model: Model) -> None:
    chain = Sampler.chain(Sampler.grammar(model, json_schema_to_gbnf(PERSON)), Sampler.dist(3))
    noise, text = np.random.default_rng(1), b""
    for _ in range(400):
        token = chain.apply(noise.normal(size=model.n_vocab).astype(np.float32)).token
        assert token is not None
        chain.accept(token)
        if model.vocab.is_eog(token):
            break
        text += model.vocab.token_to_piece(token)
    value = json.loads(text)
    assert set(value) == {"name", "age"}
    assert 0 <= value["age"] <= 150


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ("5", "object"),
        ([], "object"),
        (None, "object"),
        ({"type": "nothing"}, "schema"),
        ({"anyOf": []}, "empty"),
        ({"type": "object", "properties": [1]}, "properties"),
        ({"$ref": "#/$defs/missing"}, "ref"),
        ({"$ref": "http://example.com/schema"}, "ref"),
        ({"$ref": "#"}, "ref"),
        ({"type": "string", "pattern": "^(a$"}, "parenthes"),
        ({"const": float("nan")}, "JSON"),
        ({"const": object()}, "JSON"),
        ({1: 2}, "key"),
        ({"properties": {"x" * 300: {}}}, "key"),
        ({"$ref": "#/" + "x" * 300}, "characters"),
        ({"properties": {str(i): {} for i in range(MAX_PROPERTIES + 1)}}, "properties"),
        ({"enum": list(range(60_000))}, "nodes"),
        (
            {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
            "itself",
        ),
    ],
)
def test_schemas_that_are_refused(schema: Any, why: str) -> None:
    with pytest.raises(GrammarError, match=why):
        json_schema_to_gbnf(schema)


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def referring(hops: int) -> dict[str, Any]:
    names = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(hops)}
    return {"$ref": "#/$defs/d0", "$defs": {**names, f"d{hops}": {"type": "string"}}}


@pytest.mark.parametrize("schema", [nested(5000), referring(5000)])
def test_schemas_that_are_too_deep(schema: dict[str, Any]) -> None:
    with pytest.raises(GrammarError, match="nested"):
        json_schema_to_gbnf(schema)


def test_the_deepest_schemas_need_little_stack() -> None:
    code = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from test_grammar import nested, referring
from llamacore.core.grammar import json_schema_to_gbnf
from llamacore.errors import GrammarError
def deepest(make):
    low, high = 1, 5000
    while high - low > 1:
        middle = (low + high) // 2
        try:
            json_schema_to_gbnf(make(middle))
            low = middle
        except GrammarError:
            high = middle
    return low
def main():
    print(deepest(nested), deepest(referring))
threading.stack_size(512 * 1024)
thread = threading.Thread(target=main)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    levels, hops = map(int, done.stdout.split())
    assert levels >= 100
    assert hops >= 50
