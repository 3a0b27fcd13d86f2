"""A kit for tests of tuning methods: :class:`MethodTests` runs over a method what hfplug runs over its own.

    from hfplug.testing import MethodTests

    class TestMine(MethodTests):
        method = "mine"

It needs no test library but what runs the tests; the checks themselves are functions of :mod:`hfplug.testing.checks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfplug.testing.method_tests import MethodTests as MethodTests
    from hfplug.testing.workbench import Trial as Trial
    from hfplug.testing.workbench import Workbench as Workbench

_PUBLIC = {
    "MethodTests": "hfplug.testing.method_tests",
    "Trial": "hfplug.testing.workbench",
    "Workbench": "hfplug.testing.workbench",
}
__all__ = ["MethodTests", "Trial", "Workbench"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hfplug.testing' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
