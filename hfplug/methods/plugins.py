"""Methods of other packages, found by their entry points.

A package names the module of its method under the group ``hfplug.methods``::

    [project.entry-points."hfplug.methods"]
    my_method = "my_package.my_method"

The module is imported when the names of methods are first needed, and registers its class as those of hfplug do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from hfplug.errors import MethodError

logger = logging.getLogger(__name__)

GROUP = "hfplug.methods"
# What a method says of itself, beside what has a default.
_SAID = ("name", "category", "flag_prefix", "summary", "paper")
_LOADED: dict[str, str] = {}


def load_plugins(registry: Mapping[str, type]) -> None:
    """Import the methods of other packages; after the first call it does nothing.

    A package whose method cannot be had, whatever is wrong with it, is a warning in the log: it must not stop those who
    use another method.

    Args:
        registry: The registered methods by name; the imports add to it.
    """
    if _LOADED:
        return
    _LOADED[GROUP] = "being read"  # importing one asks for the names of methods again
    for found in entry_points(group=GROUP):
        try:
            found.load()
            own = [
                one for one in registry.values() if one.__module__.partition(".")[0] == found.module.partition(".")[0]
            ]
            why = "" if own else f"{found.module} registers no method; put @register_method on its class"
        except (Exception, SystemExit) as error:  # whatever the module of a stranger raises when it is imported
            why = str(error) if isinstance(error, MethodError) else f"{type(error).__name__}: {error}"
        if why:
            package = found.dist.name if found.dist is not None else found.value
            logger.warning(
                "The tuning method %r of the package %s cannot be loaded, and is left out: %s", found.name, package, why
            )


def check_class(cls: Any, base: type, categories: Sequence[str], registry: Mapping[str, Any]) -> None:
    """Whether a class can be registered as a method.

    Args:
        cls: The class.
        base: ``TuningMethod``.
        categories: What its ``category`` may be.
        registry: The methods that are registered, by name.

    Raises:
        MethodError: if it cannot, with the reason.
    """
    is_method = isinstance(cls, type) and issubclass(cls, base)
    if not is_method:
        raise MethodError(f"{cls!r} is no tuning method: register_method takes a subclass of TuningMethod.")
    absent = [name for name in _SAID if not isinstance(getattr(cls, name, None), str)]
    if absent:
        raise MethodError(f"{cls.__qualname__} of {cls.__module__} does not say its {', '.join(absent)}.")
    known, flags = registry.get(cls.name), cls.flag_prefix
    if cls.category not in categories:
        raise MethodError(f"{cls.name}: category must be one of {', '.join(categories)}, not {cls.category!r}.")
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise MethodError(f"Two tuning methods are called {cls.name!r}: {known.__module__} and {cls.__module__}.")
    for other in registry.values():
        if other.flag_prefix == flags and other.name != cls.name:
            raise MethodError(f"{cls.name} and {other.name} both have flags that begin with --{flags}.")
    try:
        cls()
    except Exception as error:
        raise MethodError(f"{cls.name} cannot be made with its defaults: {type(error).__name__}: {error}") from error
