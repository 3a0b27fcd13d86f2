"""Running somebody's script as Python would, with something done to the libraries when it first imports them.

Nothing heavy is imported here before the script does it: what the script sets at its top (``HF_HOME``,
``CUDA_VISIBLE_DEVICES``) is read by those libraries when they are imported, and has to come first.
"""

from __future__ import annotations

import atexit
import importlib.abc
import importlib.util
import os
import signal
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

from hfplug.errors import HfplugError, TrainingError

Patch = Callable[[types.ModuleType], None]


def run_script(
    script: str | Path,
    arguments: Sequence[str],
    *,
    patches: Mapping[str, Patch],
) -> int:
    """Run a script as ``__main__`` in this interpreter.

    Its arguments, ``__file__``, import path, exit status, ``KeyboardInterrupt`` and stack traces are those that it has
    under ``python script.py``. An error of hfplug's own is raised as it is, for the command line to print.

    Args:
        script: Path of a Python file.
        arguments: Its own arguments.
        patches: Name of a module to what is done to it right after it was imported.

    Returns:
        0, or 1 after an exception, whose stack trace is on the error stream.

    Raises:
        HfplugError: One of hfplug's own errors, raised under the script.
        SystemExit: The script left with ``sys.exit``.
        TrainingError: There is no such script.
    """
    path = Path(script)
    if not path.is_file():
        raise TrainingError(
            f"There is no script {str(script)!r}.", fix="Type: hfplug run --method lora path/to/script.py --its --flags"
        )
    install(patches)
    sys.argv = [str(script), *arguments]
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, str(path.resolve().parent))
    module = types.ModuleType("__main__")
    names = {"__file__": str(script), "__builtins__": __builtins__, "__annotations__": {}, "__cached__": None}
    # Which of them Python sets depends on its version.
    module.__dict__.update({name: value for name, value in names.items() if name in vars(sys.modules["__main__"])})
    module.__dict__.update(__file__=str(script), __loader__=SourceFileLoader("__main__", str(script)))
    sys.modules["__main__"] = module
    _die_of_interrupts()
    try:
        code = compile(path.read_bytes(), str(script), "exec", dont_inherit=True)
        exec(code, module.__dict__)
    except (SystemExit, HfplugError):
        raise
    except BaseException as error:
        show_as_python(error)
        if isinstance(error, KeyboardInterrupt):
            _INTERRUPTED.append(True)
            return 130
        return 1
    return 0


def show_as_python(error: BaseException) -> None:
    """Print an exception as Python would, without the lines of this file at its top."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    sys.stdout.flush()
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    sys.stderr.flush()


_INTERRUPTED: list[bool] = []


def _die_of_interrupts() -> None:
    """Let an interrupted script end as Python does, by the signal, so that a shell's loop around it ends too."""

    def die() -> None:
        if _INTERRUPTED and os.name == "posix":
            sys.stdout.flush()
            sys.stderr.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)

    atexit.register(die)  # the first to be registered is the last to run


class _Finder(importlib.abc.MetaPathFinder):
    """Lets others find a module, and wraps its loader."""

    def __init__(self, patches: Mapping[str, Patch]) -> None:
        self.patches = dict(patches)

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        patch = self.patches.get(name)
        if patch is None:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, patch)
                return spec
        return None


class _Loader(importlib.abc.Loader):
    """Loads a module as its own loader does, then does something to it."""

    def __init__(self, loader: Any, patch: Patch) -> None:
        self.loader = loader
        self.patch = patch

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        self.patch(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)


def install(patches: Mapping[str, Patch]) -> None:
    """Have something done to modules when they are imported, or at once to those that are already.

    Args:
        patches: Name of a module to what is done to it.
    """
    waiting = {}
    for name, patch in patches.items():
        module = sys.modules.get(name)
        if module is not None:
            patch(module)
        else:
            waiting[name] = patch
    if waiting:
        sys.meta_path.insert(0, _Finder(waiting))
