"""The layout of the package, read from its source: arrows point down, native code stays behind one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import llamacore

PACKAGE = Path(llamacore.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 450

# What a part may import: the parts in lines below its own, and its own part. Parts that are not there yet are welcome.
LAYERS = [
    ("__main__",),
    ("cli",),
    ("doctor",),
    ("nodes", "server"),
    ("pool", "managed", "steering"),
    ("llama",),
    ("openai",),
    ("engine", "speculative"),
    ("chat",),
    ("sampling",),
    ("core",),
    ("hub", "companions", "presets"),
    ("params",),
    ("gguf",),
    ("errors",),
]
RANK = {name: len(LAYERS) - number for number, names in enumerate(LAYERS) for name in names}
BLIND = (
    "engine",
    "chat",
    "nodes",
    "server",
    "cli",
    "pool",
    "managed",
    "steering",
    "presets",
    "companions",
    "doctor",
    "llama",
    "openai",
    "sampling",
    "__main__",
    "gguf",
    "hub",
    "testing",
)
# What may be asked of llamacore_sys while its libraries are not opened, and who asks.
PLAIN = {"_build", "_complete", "_gate", "_modules", "_platform", "_search"}
ASKS = ("companions/_package.py", "core/installation.py")
NATIVE = {"ffi", "lib", "llamacore_sys", "_native", "_cffi_backend", "cffi", "ctypes"}


def part(path: Path) -> str:
    """Top-level part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def runtime(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only the type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                yield other
                yield from runtime(other)
            continue
        yield node
        yield from runtime(node)


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Absolute names of the modules that a file imports when it runs, with each name taken from them."""
    home = ("llamacore", *path.relative_to(PACKAGE).with_suffix("").parts)
    package = home[:-1]
    for node in runtime(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                yield module, alias.name


def own(module: str, name: str) -> str | None:
    """The part of this package that an import means, None for other packages."""
    parts = f"{module}.{name}".split(".")
    return parts[1] if parts[0] == "llamacore" and parts[1] else None


def id_of(path: Path) -> str:
    """A file as it is named in reports."""
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", [path for path in FILES if path != PACKAGE / "__init__.py"], ids=id_of)
def test_arrows_point_down(path):
    """A file imports its own part and lower ones only; tests and tools may import the test kit, nothing here does."""
    mine = part(path)
    assert mine in RANK or mine == "testing", f"{mine} has no place in the layers: give it one"
    for module, name in imports(path):
        theirs = own(module, name)
        if theirs is None or theirs == mine or theirs.startswith("__version"):
            continue
        assert theirs != "testing", f"{id_of(path)} imports the test kit"
        assert theirs in RANK, f"{id_of(path)} imports llamacore.{theirs}, which has no place in the layers"
        if mine != "testing":
            assert RANK[theirs] < RANK[mine], f"{id_of(path)} imports llamacore.{theirs}, which is above or beside it"


@pytest.mark.parametrize("path", FILES, ids=id_of)
def test_native_code_stays_in_core(path):
    """Only core/_native.py opens llamacore_sys; the parts above core never name ffi or lib, typed or not."""
    names = {word for module, name in imports(path) for word in (*module.split("."), name)}
    if id_of(path) in ASKS:
        assert {name for module, name in imports(path) if module == "llamacore_sys"} <= PLAIN | {""}
        assert not names & (NATIVE - {"llamacore_sys"})
    elif id_of(path) != "core/_native.py":
        assert "llamacore_sys" not in names
    if part(path) in BLIND:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        used |= {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        assert not (names | used) & (NATIVE - {"llamacore_sys"} if id_of(path) in ASKS else NATIVE)


@pytest.mark.parametrize("path", FILES, ids=id_of)
def test_files_hold_one_concept(path):
    """A file of more lines than that is two concepts."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_the_names_of_the_package():
    """Everything in __all__ can be imported and comes from where it is said to; type checkers see the same names."""
    assert len(set(llamacore.__all__)) == len(llamacore.__all__)
    for name in llamacore.__all__:
        assert getattr(llamacore, name) is not None
    assert set(llamacore.__all__) <= set(dir(llamacore))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = llamacore.nonsense
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    typed = {alias.asname or alias.name for node in block.body for alias in getattr(node, "names", ())}
    from llamacore import errors

    if "*" in typed:
        typed = typed - {"*"} | {name for name in vars(errors) if isinstance(getattr(errors, name), type)}
    lazy = {name for name in llamacore.__all__ if not name.startswith("__")}
    assert {name for name in lazy if name not in typed} == set()


def test_every_error_is_one_of_ours():
    """Each class of errors.py is under the root, is exported, and is also what a Python user would catch."""
    from llamacore import errors

    classes = [item for item in vars(errors).values() if isinstance(item, type) and item.__module__ == errors.__name__]
    assert len(classes) > 20
    for item in classes:
        assert issubclass(item, errors.LlamaCoreError)
        assert item.__name__ in llamacore.__all__
        if item is not errors.LlamaCoreError:
            builtin = [base for base in item.__mro__ if base.__module__ == "builtins"]
            assert builtin[0] not in (Exception, BaseException), f"{item.__name__} is no builtin error"
        made = item("what was asked", hint="what to do", native_log=["a line"])
        assert str(made) == "what was asked. native log: a line. what to do"


def test_importing_costs_little(run_child):
    """`import llamacore` loads neither numpy nor the native libraries."""
    run_child(
        """
        assert lc.__version__
        assert not {"numpy", "llamacore_sys", "cffi", "_cffi_backend", "jinja2", "typer"} & set(sys.modules)
        """
    )
