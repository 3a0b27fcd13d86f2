"""Where the app of the Space is: in the package if hfplug was installed from a wheel, else in the checkout."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from hfplug.errors import MissingExtraError, SpaceError

APP = "app.py"
_MODULE = "hfplug_compare_app"


def app_folder() -> Path:
    """The folder with ``app.py``, its look, ``requirements.txt`` and ``README.md``.

    Raises:
        SpaceError: It is in neither place.
    """
    here = Path(__file__).absolute().parent
    # Installed (pyproject.toml puts it there); a checkout; and a Space, which holds the app beside the package.
    for folder in (here / "compare", here.parents[1] / "spaces" / "compare", here.parents[1]):
        if (folder / APP).is_file() and (folder / "requirements.txt").is_file():
            return folder
    raise SpaceError(
        "This installation of hfplug lacks the Space's app.", fix="Type: pip install --force-reinstall hfplug"
    )


def load_app() -> ModuleType:
    """The app as a module, with ``create_app`` and ``launch``.

    Raises:
        MissingExtraError: gradio is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise MissingExtraError("gradio", extra="space", needed_for="the Space")
    spec = importlib.util.spec_from_file_location(_MODULE, app_folder() / APP)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # gradio looks its functions up by their module.
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module
