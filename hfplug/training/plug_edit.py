"""The few-line change to a script for those who would rather edit than launch."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from hfplug.errors import TrainingError


def edit_source(source: str, method: str, settings: Mapping[str, Any] | None = None, *, name: str = "script") -> str:
    """Add ``import hfplug``, and ``hfplug.plug(trainer, …)`` after each statement that makes a Trainer.

    Args:
        source: The script's text.
        method: Name of a method.
        settings: Settings of the method that differ from its defaults.
        name: What to call the script in a message.

    Returns:
        The changed text, with the line ends that it had.

    Raises:
        TrainingError: It is no Python, makes no Trainer that is assigned to a name, or has hfplug in it already.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise TrainingError(f"{name} cannot be read as Python: {error}.") from error
    if any("hfplug" in ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))):
        raise TrainingError(f"{name} imports hfplug already, so nothing is changed.")
    made = _trainers(tree)
    if not made:
        raise TrainingError(
            f"{name} has no statement such as `trainer = Trainer(...)` to put a line after.",
            fix="Use hfplug run, which needs none, or add hfplug.plug(trainer, method=...) where the Trainer is made.",
        )
    end = "\r\n" if "\r\n" in source else "\n"
    lines = source.splitlines(keepends=True)
    arguments = "".join(f", {key}={value!r}" for key, value in (settings or {}).items())
    for node, target in sorted(made, key=lambda pair: pair[0].lineno, reverse=True):
        assert node.end_lineno is not None
        line = f'{" " * node.col_offset}hfplug.plug({target}, "{method}"{arguments}){end}'
        lines[node.end_lineno - 1] = _with_end(lines[node.end_lineno - 1], end)
        lines.insert(node.end_lineno, line)
    lines.insert(_after_imports(tree), f"import hfplug{end}")
    return "".join(lines)


def _trainers(tree: ast.Module) -> list[tuple[ast.stmt, str]]:
    """Statements that assign a new Trainer to a name, with the name."""
    own = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(_ends(base, "Trainer") for base in node.bases)
    }
    found: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        is_made = isinstance(value, ast.Call) and (_ends(value.func, "Trainer") or _name(value.func) in own)
        if is_made and isinstance(target, (ast.Name, ast.Attribute)):
            found.append((node, ast.unparse(target)))
    return found


def _ends(node: ast.expr, ending: str) -> bool:
    return _name(node).endswith(ending)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _after_imports(tree: ast.Module) -> int:
    """The line after which the import goes: after the last import at the top level, else after the docstring."""
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    if imports:
        return imports[-1].end_lineno or 0
    first = tree.body[0] if tree.body else None
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return (first.end_lineno or 0) if has_docstring and first is not None else 0


def _with_end(line: str, end: str) -> str:
    return line if line.endswith(("\n", "\r")) else line + end
