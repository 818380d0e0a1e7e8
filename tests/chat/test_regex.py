from __future__ import annotations

import json
import re
import sys

import pytest
from fitting import fits

import llamacore as lc
from llamacore.chat import char_sets
from llamacore.chat.regex import MAX_PATTERN, regex_to_gbnf, rules
from llamacore.errors import GrammarError

PATTERNS = {
    "abc": (["abc"], ["ab", "abcd", ""]),
    "": ([""], ["a"]),
    "^abc$": (["abc"], ["^abc$"]),
    r"\Aabc\Z": (["abc"], ["abc\n"]),
    r"\d{3}-\d{4}": (["555-1234"], ["555-123", "5551234"]),
    "a|bc|": (["a", "bc", ""], ["b", "abc"]),
    "^a$|^b$": (["a", "b"], ["ab"]),
    "(a|b)+?c": (["ac", "babac"], ["c", "ab"]),
    "(?:ab){2,3}": (["abab", "ababab"], ["ab", "abababab"]),
    "a{2}": (["aa"], ["a", "aaa"]),
    "a{,2}b": (["b", "ab", "aab"], ["aaab"]),
    "(a*)*b": (["b", "aaab"], ["a"]),
    "(a?b?){2}": (["", "abab", "ba"], ["ababab"]),
    "(a|)+": (["", "aaa"], ["b"]),
    "()*x": (["x"], [""]),
    "[a-c]": (["b"], ["d", "-"]),
    "[^a-c]": (["d", "-", "é", "世", "\n"], ["b"]),
    r"[\]\-\\^]+": (["]-\\^"], ["["]),
    "[]a]": (["]", "a"], ["b"]),
    ".": (["a", "é", "世"], ["\n", "aa"]),
    "(?s).": (["\n"], [""]),
    "(?i)straße": (["STRAßE", "straße"], ["strasse"]),
    "(?i:a)b": (["ab", "Ab"], ["AB"]),
    "(?i)[a-c]+": (["aBC"], ["d"]),
    "(?i)[^k]": (["l"], ["k", "K", "\u212a"]),
    r"\w+": (["aZ_9", "né", "世界", "Привет"], ["a b", ""]),
    r"\W": (["-", " ", "…"], ["a", "é", "_"]),
    r"\s": ([" ", "\t", "\n"], ["a"]),
    r"\S": (["a", "é"], [" ", "\u00a0"]),
    r"\D": (["a"], ["1", "\u0663"]),
    r"[^\d]": (["a"], ["1", "\u0663"]),
    r"[^\s]": (["a"], ["\u2003"]),
    r"[\w.]+@x": (["a.b@x"], ["@x"]),
    r"\x41\u00e9\t\"": (['Aé\t"'], ["A"]),
    "(?x) a b # a comment": (["ab"], ["a b"]),
    "(?P<n>a)(b)": (["ab"], ["a"]),
    "😀+": (["😀😀"], ["a"]),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_texts(demo_model: lc.Model, pattern: str) -> None:
    grammar = regex_to_gbnf(pattern)
    good, bad = PATTERNS[pattern]
    for text in good:
        assert re.fullmatch(pattern, text)
        assert fits(demo_model, grammar, text), text
    for text in bad:
        assert not re.fullmatch(pattern, text) or text.endswith("\n")
        assert not fits(demo_model, grammar, text), text


def test_flags_of_a_compiled_expression(demo_model: lc.Model) -> None:
    assert fits(demo_model, regex_to_gbnf(re.compile("ab", re.IGNORECASE)), "AB")
    assert not fits(demo_model, regex_to_gbnf(re.compile(r"\w", re.ASCII)), "é")
    assert fits(demo_model, regex_to_gbnf(re.compile("a b", re.VERBOSE)), "ab")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ('"a"', '"a"'),
        (r"\\", "\\"),
        (r"a\nb", "a\nb"),
        ("[^a]", '"'),
        ("\x01", "\x01"),
        ("é", "é"),
        (r"[\x00-\x02]", "\x02"),
    ],
)
def test_inside_a_json_string(demo_model: lc.Model, pattern: str, text: str) -> None:
    grammar = "\n".join(rules(pattern, "root", json_string=True))
    assert fits(demo_model, grammar, json.dumps(text, ensure_ascii=False))


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("b", ["abc", "b", "xxb"], ["ac"]),
        ("^b", ["bc"], ["ab"]),
        ("b$", ["ab"], ["bc"]),
        ("^b$", ["b"], ["bb"]),
        ("^a|b$", ["ax", "xb"], ["xa"]),
        ("(a|b)c", ["xacx"], ["xaxc"]),
    ],
)
def test_searching(demo_model: lc.Model, pattern: str, good: list[str], bad: list[str]) -> None:
    grammar = "\n".join(rules(pattern, "root", json_string=True, search=True))
    for text in good:
        assert re.search(pattern, text)
        assert fits(demo_model, grammar, f'"{text}"')
    for text in bad:
        assert not fits(demo_model, grammar, f'"{text}"')


@pytest.mark.parametrize(
    ("pattern", "why", "position"),
    [
        ("ab(?=c)", "lookaround", 2),
        ("a(?<=a)", "lookaround", 1),
        (r"[(?!]\((?!x)", "negative lookaround", 7),
        ("(?<!x)a", "negative lookaround", 0),
        (r"(a)\1", "backreference", 3),
        ("(?P<x>a)(?P=x)", "backreference", 8),
        ("(a)?(?(1)b|c)", "conditional", 4),
        (r"a\bc", "boundary", 1),
        ("ab^c", "beginning", 2),
        ("a$b", "end", 1),
        pytest.param("a++", "possessive", 1, marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="3.11")),
        pytest.param("(?>a)", "atomic", 0, marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="3.11")),
    ],
)
def test_what_no_grammar_can_say(pattern: str, why: str, position: int) -> None:
    with pytest.raises(GrammarError, match=f"{why}.* at position {position}"):
        regex_to_gbnf(pattern)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "does not parse.*position 0"),
        ("[a", "does not parse"),
        ("a{3,2}", "does not parse"),
        ("a{2001}", "2001 times"),
        (r"[^\d\D]", "no characters"),
        ("a" * (MAX_PATTERN + 1), "characters"),
        (re.compile(b"a"), "bytes"),
        ("(" * 2000 + ")" * 2000, "nested|parse"),
    ],
)
def test_expressions_that_are_refused(pattern: str, why: str) -> None:
    with pytest.raises(GrammarError, match=why):
        regex_to_gbnf(pattern)


def test_sets_of_characters() -> None:
    digits = char_sets.where(str.isdecimal)
    assert digits[0] == (0x30, 0x39)
    assert all(chr(low).isdecimal() and chr(high).isdecimal() for low, high in digits)
    everything = char_sets.complement(())
    assert everything == ((0, 0xD7FF), (0xE000, 0x10FFFF))
    assert char_sets.complement(char_sets.complement(digits)) == digits
    assert char_sets.intersection(digits, char_sets.complement(digits)) == ()
    few = char_sets.simplified(digits)
    assert char_sets.intersection(few, digits) == few


@pytest.mark.parametrize("code", [*range(0x30), 0x5B, 0x5C, 0x5D, 0x5E, 0x7F, 0xE9, 0x2028, 0x1F600])
def test_every_character_can_be_written(demo_model: lc.Model, code: int) -> None:
    char = chr(code)
    in_class = char_sets.char_class(((code, code), (0x7A, 0x7A)))
    for grammar in (f"root ::= {char_sets.literal(char)}", f"root ::= {in_class}"):
        lc.Sampler.grammar(demo_model, grammar).close()
        if code:  # a text with NUL cannot be tokenised here
            assert fits(demo_model, grammar, char)
            assert not fits(demo_model, grammar, "Q")
