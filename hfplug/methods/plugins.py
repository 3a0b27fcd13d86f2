"""Methods of other packages, found by their entry points.

A package names the module of its method under the group ``hfplug.methods``::

    [project.entry-points."hfplug.methods"]
    my_method = "my_package.my_method"

The module is imported when the names of methods are first needed, and registers its class as those of hfplug do.
"""

from __future__ import annotations

import logging
from importlib.metadata import EntryPoint, entry_points

from hfplug.errors import MethodError

logger = logging.getLogger(__name__)

GROUP = "hfplug.methods"
_LOADED: dict[str, str] = {}


def load_plugins() -> None:
    """Import the methods of other packages; after the first call it does nothing.

    A package that cannot be imported is a warning in the log: it must not stop those who use another method.

    Raises:
        MethodError: A package's method has the name of another method.
    """
    if _LOADED:
        return
    _LOADED[GROUP] = "being read"  # importing one asks for the names of methods again
    try:
        for found in entry_points(group=GROUP):
            _load(found)
    except MethodError:
        _LOADED.clear()  # it is said again, to whoever asks next
        raise


def _load(found: EntryPoint) -> None:
    package = found.dist.name if found.dist is not None else found.value
    try:
        found.load()
    except MethodError:
        raise
    except Exception as error:  # whatever the module of a stranger raises when it is imported
        logger.warning(
            "The tuning method %r of the package %s cannot be loaded, and is left out: %s: %s",
            found.name,
            package,
            type(error).__name__,
            error,
        )
