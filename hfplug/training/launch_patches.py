"""What ``hfplug run`` does to transformers when a script first imports it: as little as there is.

* ``transformers.trainer``: making a Trainer makes one with hfplug in it (:mod:`hfplug.training.plug_trainer`).
* ``transformers.modeling_utils``: each load leaves a note of what the checkpoint lacked, and an adapter's folder is
  loaded as the base with the adapter on it, so that a script can start again on what it wrote.
* ``transformers.models.auto.configuration_auto``: the configuration of an adapter's folder is its base's.

This file imports no torch by itself: the command line reads it before the script has set its environment.
"""

from __future__ import annotations

import functools
import inspect
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.methods import TuningMethod

if TYPE_CHECKING:
    from hfplug.training.plug_trainer import Plan

Patch = Callable[[types.ModuleType], None]


def patches_for(make_plan: Callable[[], Plan], method: TuningMethod) -> dict[str, Patch]:
    """The patches for one run.

    Args:
        make_plan: Makes the plan when the first Trainer is made; torch may be imported by then.
        method: The method of the run.
    """
    return {
        "transformers.trainer": lambda module: patch_trainer(module, functools.cache(make_plan)),
        "transformers.modeling_utils": lambda module: patch_models(module, method),
        "transformers.models.auto.configuration_auto": patch_configurations,
    }


def patch_trainer(module: types.ModuleType, make_plan: Callable[[], Plan]) -> None:
    """Make every Trainer one with hfplug in it.

    ``__new__`` is called with the arguments of the outermost ``__init__``, before any class has looked at the model:
    the model, whose object stays the same, becomes the tuned one there.
    """
    trainer_class: Any = module.Trainer  # type: ignore[attr-defined]

    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        from hfplug.training.plug_trainer import plug_before, plugged_class

        kind: Any = plugged_class(cls)
        trainer: Any = object.__new__(kind)
        trainer.__dict__["hfplug_plan"] = make_plan()
        plug_before(trainer, _bound(cls, args, kwargs))
        return trainer

    trainer_class.__new__ = staticmethod(new)


def patch_models(module: types.ModuleType, method: TuningMethod) -> None:
    """Have each load leave a note, and load an adapter's folder as base and adapter."""
    model_class: Any = module.PreTrainedModel  # type: ignore[attr-defined]
    original = model_class.from_pretrained.__func__

    @functools.wraps(original)
    def from_pretrained(cls: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
        from hfplug.training.load_notes import leave_note

        wants_info = kwargs.pop("output_loading_info", False)
        adapter = _adapter_of(source, kwargs)
        if adapter is not None:
            source, kwargs = str(_base_of(adapter)), {**kwargs, "adapter_kwargs": {}}
        result = original(cls, source, *args, output_loading_info=True, **kwargs)
        if not isinstance(result, tuple):  # a class of somebody's own
            return result
        model, info = result
        leave_note(model, info)
        if adapter is not None:
            from hfplug.training.plug_model import plug_saved

            plug_saved(model, method, adapter)
        return (model, info) if wants_info else model

    model_class.from_pretrained = classmethod(from_pretrained)


def patch_configurations(module: types.ModuleType) -> None:
    """Give the base's configuration for an adapter's folder, with the labels that the adapter was trained for."""
    auto: Any = module.AutoConfig  # type: ignore[attr-defined]
    original = auto.from_pretrained.__func__

    @functools.wraps(original)
    def from_pretrained(cls: Any, source: Any, *args: Any, **kwargs: Any) -> Any:
        adapter = adapter_folder(source)
        if adapter is None:
            return original(cls, source, *args, **kwargs)
        kwargs.pop("revision", None)
        from hfplug.training.plug_model import saved_labels

        if "num_labels" not in kwargs and "id2label" not in kwargs and (labels := saved_labels(adapter)) is not None:
            kwargs["num_labels"] = labels
        return original(cls, str(_base_of(adapter)), *args, **kwargs)

    auto.from_pretrained = classmethod(from_pretrained)


def adapter_folder(source: Any) -> Path | None:
    """The folder of an adapter without its base that a script means by ``source``, or None.

    Args:
        source: What was given to ``from_pretrained``.
    """
    if not isinstance(source, (str, Path)):
        return None
    folder = Path(source)
    is_adapter = (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()
    return folder if is_adapter else None


def _adapter_of(source: Any, kwargs: dict[str, Any]) -> Path | None:
    """An Auto class has looked at the folder already, and passes on where the adapter is."""
    passed = (kwargs.get("adapter_kwargs") or {}).get("_adapter_model_path")
    return adapter_folder(passed) or adapter_folder(source)


def _base_of(folder: Path) -> str:
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = settings.get("base_model_name_or_path")
    if not base:
        from hfplug.errors import AdapterError

        raise AdapterError(
            f"The adapter in {str(folder)!r} does not say which base it is for.",
            fix="Write base_model_name_or_path into its adapter_config.json.",
        )
    return str(base)


def _bound(cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the outermost ``__init__`` by name, as far as its signature tells."""
    try:
        given = inspect.signature(cls.__init__).bind_partial(None, *args, **kwargs).arguments
    except TypeError:  # the script's call is wrong, which Python will tell it
        return dict(kwargs)
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given.update(given.pop(name, {}))
        elif parameter.kind is parameter.VAR_POSITIONAL and given.get(name) and "model" not in given:
            given["model"] = given[name][0]
    return dict(given)
