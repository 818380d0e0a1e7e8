"""The house as docs/design.md draws it: arrows point down, one door to the native code, small rooms."""

import ast
from pathlib import Path

import pytest

import llamacore

PACKAGE = Path(llamacore.__file__).parent

# From the top; a module may import from its own layer and from those below it.
LAYERS = [
    ["llamacore.cli", "llamacore.__main__"],
    ["llamacore.llama"],
    ["llamacore.engine", "llamacore.chat"],
    ["llamacore.sampling"],
    ["llamacore.core"],
    ["llamacore.gguf", "llamacore.hub", "llamacore.params"],
    ["llamacore.errors"],
]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "testing" not in path.parts)


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module):
    for depth, names in enumerate(LAYERS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return depth
    return None


def imports(path):
    """Every module that a file imports when it runs, as (line, absolute name); type-checking blocks are left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def test_every_module_has_a_layer():
    """A new part of the package is given its place in the drawing before anything imports it."""
    homeless = [name_of(path) for path in MODULES if layer_of(name_of(path)) is None]
    assert ["llamacore"] == homeless


@pytest.mark.parametrize("path", [path for path in MODULES if layer_of(name_of(path)) is not None], ids=name_of)
def test_imports_point_down(path):
    """No module imports from a layer above its own."""
    own = layer_of(name_of(path))
    up = [
        f"line {line}: {module}"
        for line, module in imports(path)
        if (layer := layer_of(module)) is not None and layer < own
    ]
    assert [] == up


def test_one_door_to_the_native_code():
    """Only core/_native.py imports llamacore_sys, and only core imports that door."""
    everything = [*PACKAGE.rglob("*.py")]
    direct = {name_of(path) for path in everything if any(m.startswith("llamacore_sys") for _, m in imports(path))}
    assert {"llamacore.core._native"} == direct
    through = {name_of(path) for path in everything if any("core._native" in m for _, m in imports(path))}
    assert [] == [name for name in sorted(through) if not name.startswith("llamacore.core.")]


def test_the_sdk_does_not_know_the_command_line():
    """Nothing below the cli imports it, nor typer."""
    below = [
        path for path in PACKAGE.rglob("*.py") if not name_of(path).startswith(("llamacore.cli", "llamacore.__main__"))
    ]
    assert [] == [
        name_of(path) for path in below if any(m.startswith(("llamacore.cli", "typer")) for _, m in imports(path))
    ]


def test_files_stay_small():
    """A file is one concept: none over 450 lines."""
    roots = [PACKAGE, PACKAGE.parent / "llamacore_sys", PACKAGE.parent / "build_support"]
    long = {
        str(path.relative_to(PACKAGE.parent)): lines
        for root in roots
        for pattern in ("*.py", "shim/*.cpp")
        for path in root.rglob(pattern)
        if (lines := len(path.read_text().splitlines())) > 450
    }
    assert {} == long


def test_all_names_exist_and_are_complete():
    """`__all__` is what the package offers: each name can be imported, and no public name is missing."""
    for name in llamacore.__all__:
        assert getattr(llamacore, name) is not None
    tree = ast.parse((PACKAGE / "errors.py").read_text())
    errors = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert errors <= set(llamacore.__all__)


def test_import_is_lazy():
    """`import llamacore` loads neither numpy nor the native libraries."""
    import subprocess
    import sys

    code = (
        "import sys, llamacore; print([m for m in ('numpy', 'llamacore_sys', 'jinja2', 'typer') if m in sys.modules])"
    )
    assert (
        "[]" == subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    )
