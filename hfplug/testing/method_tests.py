"""The tests that every method passes, as a class to derive from."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import unittest
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from hfplug.methods import TuningMethod, get_method
from hfplug.testing import checks
from hfplug.testing.workbench import KINDS, Trial, Workbench, shared_workbench

TOKEN = "hf_" + "t1e2s3t4i5n6g7K8i9T0" * 2


class MethodTests:
    """What holds for every tuning method, on a seq2seq, a causal and a classification model.

    Derive a class whose name begins with ``Test`` and say which method it is about; pytest runs it::

        class TestMine(MethodTests):
            method = "mine"

    Attributes:
        method: The name of a registered method.
        settings: Its settings, where the defaults are not those to test with.
        kinds: Kinds of bases, of ``seq2seq``, ``causal`` and ``classification``; None for all that its
            ``task_types`` name.
        bench: Makes the bases and trains on them; the tests of one process share it.
    """

    method: ClassVar[str]
    settings: ClassVar[Mapping[str, Any]] = {}
    kinds: ClassVar[tuple[str, ...] | None] = None

    @property
    def bench(self) -> Workbench:
        """The workbench of this process; override it for one of your own."""
        return shared_workbench()

    @classmethod
    def chosen(cls) -> TuningMethod:
        """The method with the settings to test with."""
        return get_method(cls.method).from_settings(cls.settings)

    def trial(self, kind: str) -> Trial:
        """The method after three steps on a base of a kind."""
        return self.bench.trial(self.chosen(), kind)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test a kind of base."""
        if "kind" in metafunc.fixturenames:
            suited = get_method(self.method).task_types
            metafunc.parametrize("kind", self.kinds or [kind for kind, task in KINDS.items() if task in suited])

    def test_only_its_own_parameters_move(self, kind: str) -> None:
        checks.check_only_its_own_parameters_move(self.trial(kind))

    def test_untrained_it_gives_what_it_says(self, kind: str) -> None:
        checks.check_untrained_it_gives_what_it_says(self.bench, self.chosen(), kind)

    def test_saved_and_loaded_it_is_the_same(self, kind: str) -> None:
        checks.check_saved_and_loaded_it_is_the_same(self.trial(kind))

    def test_the_probe_knows_it_and_no_other(self, kind: str, tmp_path: Path) -> None:
        checks.check_the_probe_knows_it(self.trial(kind), tmp_path)

    def test_without_hfplug_it_is_the_same(self, kind: str) -> None:
        checks.check_without_hfplug_it_is_the_same(self.trial(kind))

    def test_switched_off_it_is_the_base_in_generate_too(self, kind: str) -> None:
        checks.check_switched_off_it_is_the_base(self.trial(kind))

    def test_pushed_and_pulled_it_is_the_same_bytes(self, kind: str, tmp_path: Path) -> None:
        endpoint = _endpoint()
        checks.check_pushed_and_pulled_it_is_the_same_bytes(self.trial(kind), endpoint, TOKEN, tmp_path)

    def test_its_folder_holds_an_adapter_and_no_more(self, kind: str) -> None:
        checks.check_its_folder_holds_an_adapter_and_no_more(self.trial(kind))

    def test_flags_survive_command_line_json_and_yaml(self, tmp_path: Path) -> None:
        checks.check_flags_survive(self.method, tmp_path)


@functools.cache
def _endpoint() -> str:
    """A Hub on loopback, for this process; its user ``me`` has :data:`TOKEN`."""
    if importlib.util.find_spec("starlette") is None:
        raise unittest.SkipTest("a Hub on loopback needs the extra: pip install 'hfplug[hub]'")
    import atexit

    from hfplug.hub.server import running_hub

    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    root = shared_workbench().folder / "hub"
    root.mkdir()
    endpoint: str = stack.enter_context(running_hub(root, tokens={TOKEN: "me"})).endpoint
    return endpoint
