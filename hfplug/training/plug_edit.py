"""The few-line change to a script for those who would rather edit than launch."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfplug.errors import TrainingError


def read_script(path: Path) -> tuple[str, str]:
    """The text of a script, with the line ends that it has, and its encoding as Python finds it (PEP 263).

    Args:
        path: The script.

    Raises:
        TrainingError: It is not in the encoding that it says.
    """
    data = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding), encoding
    except (SyntaxError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path} cannot be read as Python: {error}.") from error


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
        TrainingError: It is no Python, makes no Trainer that is assigned to a name in a line of its own, or has hfplug
            in it already.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:  # a ValueError: a null byte, in older Pythons
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
    lines = io.StringIO(source, newline="").readlines()  # str.splitlines() would split at a form feed as well
    arguments = "".join(f", {key}={value!r}" for key, value in (settings or {}).items())
    made.sort(key=lambda pair: pair[0].lineno)
    for node, target in reversed(made):
        assert node.end_lineno is not None
        indent = _indent(lines, node, name)
        lines[node.end_lineno - 1] = _with_end(lines[node.end_lineno - 1], end)
        lines.insert(node.end_lineno, f'{indent}hfplug.plug({target}, "{method}"{arguments}){end}')
    at = _after_imports(tree, before=made[0][0].lineno)
    while not at and lines[at].startswith("#!"):
        at += 1
    # The line that names the encoding counts in the first two lines only (PEP 263).
    if at < 2 and any("coding" in line for line in lines[at:2] if line.startswith("#")):
        at = 1 + max(place for place in range(at, 2) if "coding" in lines[place])
    if at:
        lines[at - 1] = _with_end(lines[at - 1], end)
    lines.insert(at, f"import hfplug{end}")
    return "".join(lines)


def _indent(lines: list[str], node: ast.stmt, name: str) -> str:
    """What stands before a statement that has its lines for itself: blanks or tabs.

    Raises:
        TrainingError: It shares a line with another, so that no line can be put right behind it.
    """
    assert node.end_lineno is not None and node.end_col_offset is not None
    before = lines[node.lineno - 1].encode()[: node.col_offset].decode()
    after = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip()
    if before.strip() or (after and not after.startswith("#")):
        raise TrainingError(
            f"{name} makes a Trainer in line {node.lineno} together with another statement.",
            fix="Give that statement a line of its own, or use hfplug run, which needs none.",
        )
    return before


def _trainers(tree: ast.Module) -> list[tuple[ast.stmt, str]]:
    """Statements that assign a new Trainer to a name, with the name."""
    own = _trainer_names(tree)
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


def _trainer_names(tree: ast.Module) -> set[str]:
    """Names that mean a Trainer in this script: those of an import, and classes derived from one, also further on."""
    names = {
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname and alias.name.endswith("Trainer")
    }
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for _ in classes:  # as often as one could be derived from another
        names |= {
            node.name for node in classes if any(_ends(base, "Trainer") or _name(base) in names for base in node.bases)
        }
    return names


def _ends(node: ast.expr, ending: str) -> bool:
    return _name(node).endswith(ending)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _after_imports(tree: ast.Module, *, before: int) -> int:
    """The line after which the import goes: after the last top-level import above line ``before``, else after the
    docstring."""
    places: list[ast.stmt] = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    places = [node for node in places if node.lineno < before]
    if not places and ast.get_docstring(tree, clean=False) is not None:
        places = tree.body[:1]
    return places[-1].end_lineno or 0 if places else 0


def _with_end(line: str, end: str) -> str:
    return line if line.endswith(("\n", "\r")) else line + end
