"""The cdef against the pinned headers: nothing missing, nothing stale, every declaration as upstream writes it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CDEF_DIR = Path(__file__).parents[2] / "llamacore_sys" / "cdef"
EXCEPTIONS = Path(__file__).with_name("cdef_exceptions.txt")

COVERED = {
    "ggml.h": "ggml/include/ggml.h",
    "ggml-backend.h": "ggml/include/ggml-backend.h",
    "ggml-opt.h": "ggml/include/ggml-opt.h",
    "gguf.h": "ggml/include/gguf.h",
    "llama.h": "include/llama.h",
    "mtmd.h": "tools/mtmd/mtmd.h",
    "mtmd-helper.h": "tools/mtmd/mtmd-helper.h",
}
DECLARED_ELSEWHERE = "ggml/include/ggml-cpu.h"  # it has an enumeration that a function of llama.h takes
OURS = {"callbacks.h"}  # no upstream header to compare with
PREFIXES = ("llama_", "ggml_", "gguf_", "mtmd_")

API_MARKER = re.compile(r"\b(?:LLAMA|MTMD|GGML|GGML_BACKEND)_API\b")
DEPRECATED_MACRO = re.compile(r"\b(?:GGML_)?DEPRECATED\s*\(")
COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"', re.DOTALL)
ATTRIBUTE = re.compile(r"\bGGML_NORETURN\b|\bGGML_ATTRIBUTE_FORMAT\s*\([^)]*\)|\bGGML_RESTRICT\b")
DEPRECATED_STATEMENT = re.compile(r'(?:GGML_)?DEPRECATED\s*\((.*),\s*"[^"]*"\s*\)', re.DOTALL)
FUNCTION = re.compile(r"[\w\s*]*?[\s*](\w+)\s*\(([^{}]*)\)", re.DOTALL)
AGGREGATE = re.compile(r"(?:typedef\s+)?(enum|struct|union)\s*(\w*)\s*\{(.*)\}\s*(\w*)", re.DOTALL)
INTEGER_MACRO = re.compile(r"((?:LLAMA|GGML|GGUF|MTMD)_\w+)\s+(\(?-?(?:0x[0-9a-fA-F]+|\d+)[uUlL]*\)?|[A-Z]\w+|\.\.\.)")


@dataclass
class Header:
    """What one C header, or one cdef file, declares."""

    functions: dict[str, str] = field(default_factory=dict)  # name to declaration with canonical spacing
    deprecated: set[str] = field(default_factory=set)
    enums: dict[str, set[str]] = field(default_factory=dict)  # tag to constants
    structs: dict[str, set[str]] = field(default_factory=dict)  # tag to fields; a named inner struct gives "a.b"
    constants: set[str] = field(default_factory=set)  # macros that are integers
    markers: int = 0  # LLAMA_API and its kin, counted in the text before it is taken apart
    deprecated_markers: int = 0

    def update(self, other: Header) -> None:
        for name in ("functions", "deprecated", "enums", "structs", "constants"):
            getattr(self, name).update(getattr(other, name))


def c_part(text: str) -> tuple[str, list[str]]:
    """Strip comments, preprocessor lines and the sections meant for other compilers; also give the #define lines."""
    text = COMMENT_OR_STRING.sub(lambda m: m[0] if m[0].startswith('"') else " ", text).replace("\\\n", " ")
    kept: list[str] = []
    defines: list[str] = []
    foreign: list[bool] = []
    for line in text.split("\n"):
        directive = re.match(r"\s*#\s*(\w+)\s*(.*)", line)
        if directive is None:
            if not any(foreign):
                kept.append(line)
            continue
        word, rest = directive.groups()
        if word in ("if", "ifdef"):
            foreign.append("__cplusplus" in rest or "__CUDACC__" in rest)
        elif word == "ifndef":
            foreign.append(False)
        elif word in ("else", "elif"):
            foreign[-1] = False
        elif word == "endif":
            foreign.pop()
        elif word == "define" and not any(foreign):
            defines.append(rest.strip())
    assert not foreign, "unbalanced conditional"
    return "\n".join(kept), defines


def split_outside(text: str, separator: str) -> list[str]:
    """Split at the separators that lie outside all brackets."""
    parts, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char in "({[") - (char in ")}]")
        if char == separator and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    assert depth == 0, "unbalanced brackets"
    parts.append(text[start:].strip())
    return [part for part in parts if part]


def canonical(declaration: str) -> str:
    return re.sub(r"\s*([*(),])\s*", r"\1", re.sub(r"\s+", " ", declaration.strip()))


def field_names(body: str) -> set[str]:
    names: set[str] = set()
    for member in split_outside(body, ";"):
        if member == "...":
            continue
        inner = AGGREGATE.fullmatch(member)
        if inner:
            prefix = f"{inner[4]}." if inner[4] else ""
            names |= {prefix + name for name in field_names(inner[3])}
            continue
        for declarator in split_outside(member, ","):
            pointer = re.search(r"\(\s*\*\s*(\w+)\s*\)\s*\(", declarator)
            plain = re.search(r"(\w+)\s*(?:\[[^]]*\]\s*)*$", declarator)
            found = pointer or plain
            assert found, f"no field name in {declarator!r}"
            names.add(found[1])
    return names


def parse(text: str) -> Header:
    code, defines = c_part(text)
    header = Header(markers=len(API_MARKER.findall(code)), deprecated_markers=len(DEPRECATED_MACRO.findall(code)))
    header.constants = {m[1] for line in defines if (m := INTEGER_MACRO.fullmatch(line))}
    for raw in split_outside(code, ";"):
        statement = ATTRIBUTE.sub(" ", API_MARKER.sub(" ", raw)).strip()
        old = DEPRECATED_STATEMENT.fullmatch(statement)
        if old:
            statement = old[1].strip()
        if aggregate := AGGREGATE.fullmatch(statement):
            kind, tag, body, alias = aggregate.groups()
            if kind == "enum":
                header.enums[tag or alias] = {item.split("=")[0].strip() for item in split_outside(body, ",")}
            else:
                header.structs[tag or alias] = field_names(body)
        elif not statement.startswith("typedef") and (function := FUNCTION.fullmatch(statement)):
            if old:
                header.deprecated.add(function[1])
            else:
                assert function[1] not in header.functions, f"{function[1]} is declared twice"
                header.functions[function[1]] = canonical(statement)
    return header


@dataclass(frozen=True)
class Rule:
    """One line of the exception list."""

    kind: str
    pattern: str
    reason: str

    def matches(self, kind: str, text: str) -> bool:
        return kind == self.kind and re.fullmatch(self.pattern, text) is not None


def read_rules() -> list[Rule]:
    """Read the exception list, in which every rule has a reason."""
    lines = [line.strip() for line in EXCEPTIONS.read_text(encoding="utf-8").splitlines()]
    rules = [Rule(*re.split(r"\s+\|\s+", line)) for line in lines if line and not line.startswith("#")]
    assert all(rule.reason for rule in rules)
    return rules


def undeclared(upstream: Header, cdef: Header) -> list[tuple[str, str]]:
    """Everything public that the cdef leaves out, as (kind, text the rules are matched with)."""
    missing = [("function", text) for name, text in upstream.functions.items() if name not in cdef.functions]
    missing += [("enum", tag) for tag in upstream.enums if tag not in cdef.enums]
    missing += [("struct", tag) for tag in upstream.structs if tag not in cdef.structs]
    missing += [("constant", name) for name in upstream.constants - cdef.constants]
    for tag, constants in upstream.enums.items():
        missing += [("enumerator", f"{tag}.{name}") for name in constants - cdef.enums.get(tag, constants)]
    for tag, fields in upstream.structs.items():
        missing += [("field", f"{tag}.{name}") for name in fields - cdef.structs.get(tag, fields)]
    return missing


@pytest.fixture(scope="module")
def headers(upstream_source: Path) -> dict[str, Header]:
    return {name: parse((upstream_source / path).read_text(encoding="utf-8")) for name, path in COVERED.items()}


@pytest.fixture(scope="module")
def upstream(headers: dict[str, Header]) -> Header:
    whole = Header()
    for header in headers.values():
        whole.update(header)
    return whole


@pytest.fixture(scope="module")
def cdef_files() -> dict[str, Header]:
    return {name: parse((CDEF_DIR / name).read_text(encoding="utf-8")) for name in COVERED}


@pytest.fixture(scope="module")
def cdef(cdef_files: dict[str, Header]) -> Header:
    whole = Header()
    for header in cdef_files.values():
        assert not whole.functions.keys() & header.functions.keys(), "a function is declared in two cdef files"
        whole.update(header)
    return whole


def test_order_names_every_cdef_file() -> None:
    order = (CDEF_DIR / "ORDER").read_text(encoding="utf-8").split()
    assert sorted(order) == sorted(path.name for path in CDEF_DIR.glob("*.h"))
    assert set(order) == set(COVERED) | OURS


def test_every_public_header_is_covered_or_excepted(upstream_source: Path) -> None:
    public = {path.relative_to(upstream_source).as_posix() for path in upstream_source.glob("include/*.h")}
    public |= {path.relative_to(upstream_source).as_posix() for path in upstream_source.glob("ggml/include/*.h")}
    rules = [rule for rule in read_rules() if rule.kind == "header"]
    left_out = public - set(COVERED.values())
    assert [h for h in sorted(left_out) if not any(rule.matches("header", h) for rule in rules)] == []
    assert [rule for rule in rules if not any(rule.matches("header", h) for h in left_out)] == []


def test_parser_reads_the_awkward_forms() -> None:
    header = parse(
        """
        #ifdef __cplusplus
        extern "C" {
        #endif
        #define LLAMA_A (-1) // one
        #define LLAMA_B LLAMA_A
        #define LLAMA_C "text; // not a comment"
        #define LLAMA_D(x) 1
        enum tag { TAG_ONE, TAG_TWO = 1 << 2, /* TAG_GONE, */ };
        struct par { int n, *m; union { float f; char s[8]; }; struct { int k; } in; bool (*cb)(int a, void * b); };
        typedef bool (*callback)(int a);
        GGML_DEPRECATED(GGML_API struct par * old_one(int a), "use; new(one)");
        LLAMA_API DEPRECATED(size_t old_two(int a), "gone");
        GGML_ATTRIBUTE_FORMAT(2, 3)
        GGML_API enum tag  new_one (struct par  *p, const char * fmt, ...);
        GGML_BACKEND_API void new_two(void); MTMD_API const struct par * const * new_three(int (*f)(int), int n[2]);
        #ifdef __cplusplus
        }
        class ignored { void f(); };
        #endif
        """
    )
    assert header.functions == {
        "new_one": "enum tag new_one(struct par*p,const char*fmt,...)",
        "new_two": "void new_two(void)",
        "new_three": "const struct par*const*new_three(int(*f)(int),int n[2])",
    }
    assert header.deprecated == {"old_one", "old_two"}
    assert header.enums == {"tag": {"TAG_ONE", "TAG_TWO"}}
    assert header.structs == {"par": {"n", "m", "f", "s", "in.k", "cb"}}
    assert header.constants == {"LLAMA_A", "LLAMA_B"}
    assert (header.markers, header.deprecated_markers) == (5, 2)


@pytest.mark.parametrize("name", COVERED)
def test_parser_misses_no_function(headers: dict[str, Header], name: str) -> None:
    header = headers[name]
    assert header.markers > 0
    assert len(header.functions) == header.markers - header.deprecated_markers
    assert len(header.deprecated) == header.deprecated_markers


def test_everything_public_is_declared_or_excepted(upstream: Header, cdef: Header) -> None:
    rules = read_rules()
    missing = undeclared(upstream, cdef)
    assert [text for kind, text in missing if not any(rule.matches(kind, text) for rule in rules)] == []


def test_every_exception_still_excepts_something(upstream: Header, cdef: Header) -> None:
    missing = undeclared(upstream, cdef)
    rules = [rule for rule in read_rules() if rule.kind != "header"]
    assert [rule for rule in rules if not any(rule.matches(kind, text) for kind, text in missing)] == []


def test_nothing_is_declared_that_upstream_lacks(upstream: Header, cdef: Header, upstream_source: Path) -> None:
    upstream.update(parse((upstream_source / DECLARED_ELSEWHERE).read_text(encoding="utf-8")))
    assert undeclared(cdef, upstream) == []
    for tag, constants in cdef.enums.items():
        assert constants <= upstream.enums[tag], tag
    for tag, fields in cdef.structs.items():
        assert fields <= upstream.structs[tag], tag


def test_functions_are_declared_as_upstream_declares_them(upstream: Header, cdef: Header) -> None:
    assert {name: text for name, text in cdef.functions.items() if text != upstream.functions.get(name)} == {}


def test_cdef_leaves_every_number_to_the_compiler() -> None:
    for path in CDEF_DIR.glob("*.h"):
        code, defines = c_part(path.read_text(encoding="utf-8"))
        assert [line for line in defines if not line.endswith(" ...")] == [], path.name
        assert re.findall(r"\[\s*\w+\s*\]", code) == [], path.name
        for statement in split_outside(code, ";"):
            aggregate = AGGREGATE.fullmatch(statement)
            if aggregate is None:
                continue
            if aggregate[1] == "enum":
                items = split_outside(aggregate[3], ",")
                assert [item for item in items if not item.endswith("= ...")] == [], aggregate[2]
            else:
                assert split_outside(aggregate[3], ";")[-1] == "...", f"{aggregate[2]} is not a partial struct"


def test_built_extension_holds_the_whole_cdef(cdef: Header, cdef_files: dict[str, Header]) -> None:
    from llamacore_sys import lib

    declared = set(cdef.functions) | cdef.constants | set().union(*cdef.enums.values())
    assert declared <= set(dir(lib))
    assert {name for name in dir(lib) if name.startswith(PREFIXES)} <= declared
    for name in dir(lib):
        getattr(lib, name)


def test_built_types_have_the_compilers_sizes(upstream: Header, cdef: Header) -> None:
    from llamacore_sys import ffi

    typedefs, structs, unions = ffi.list_types()
    sized = set()
    for name in [*typedefs, *(f"struct {s}" for s in structs), *(f"union {u}" for u in unions)]:
        ctype = ffi.typeof(name)
        try:
            assert ffi.sizeof(ctype) > 0
        except ffi.error:
            # Only opaque handles have no size; asking one for its fields would abort the process in cffi 2.
            assert name.removeprefix("struct ") not in upstream.structs, f"{name} is opaque here and public upstream"
            continue
        if ctype.kind in ("struct", "union"):
            sized.add(ctype.cname.removeprefix("struct "))
            for field_name, member in ctype.fields:
                assert not field_name or ffi.offsetof(ctype, field_name) + ffi.sizeof(member.type) <= ffi.sizeof(ctype)
    assert sized >= set(cdef.structs)
