"""Rules of the whole house, read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hfplug

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hfplug"
# A room may use the rooms to its left only.
ROOMS = (
    *(
        "errors",
        "methods",
        "models",
        "adapters",
        "hub",
        "training",
        "serving",
        "comparison",
        "demo",
        "space",
        "testing",
    ),
    "cli",
)
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "hfplug" and len(parts) > 1 and parts[1] in ROOMS else None


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_uses_only_rooms_to_its_left(path):
    own = room_of("hfplug." + path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."))
    if own is None:  # the package itself, which names what is public
        return
    to_the_right = [
        module for module in imports_of(path) if (room := room_of(module)) and ROOMS.index(room) > ROOMS.index(own)
    ]
    assert to_the_right == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short_and_nothing_is_pickled(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    tree = ast.parse(text)
    functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    assert [node.name for node in functions if node.end_lineno - node.lineno > 70] == []
    assert imports_of(path) & {"pickle", "cloudpickle", "joblib", "dill"} == set()
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert calls & {"torch.load", "torch.save"} == set()


def test_importing_hfplug_loads_nothing_heavy():
    code = "import sys, hfplug; print({'torch', 'transformers', 'peft', 'datasets', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("name", [name for name in hfplug.__all__ if name != "__version__"])
def test_every_public_name_is_there_and_says_what_it_is(name):
    assert getattr(hfplug, name).__doc__


def test_type_checkers_see_the_same_public_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(hfplug.__all__) - {"__version__"}


def test_the_readmes_python_compiles_and_the_names_that_it_uses_exist():
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block.partition("```")[0])):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hfplug":
                assert hasattr(hfplug, node.attr), node.attr


def test_the_readme_names_every_method_and_files_that_exist():
    import re

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in hfplug.method_names() if f"| `{name}` |" not in text] == []
    named = re.findall(r"\]\(([\w./-]+)\)|`(benchmarks/\w+\.py)`", text)
    assert [path for pair in named for path in pair if path and not (ROOT / path).exists()] == []
