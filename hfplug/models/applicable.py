"""Which methods work on a base, found out without reading a weight."""

from __future__ import annotations

from pathlib import Path

import torch

from hfplug.errors import MethodError
from hfplug.methods import TuningMethod, get_method, method_names
from hfplug.models.anatomy import Anatomy, read_anatomy
from hfplug.models.base import auto_class, read_task_type, resolve_base


def methods_for(
    base: str | Path, *, task_type: str | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> dict[str, str | None]:
    """Ask every registered method whether it works on a base.

    Args:
        base: Repo id or folder; its configuration is read, its weights are not.
        task_type: As for :func:`~hfplug.models.factory.build_model`.
        revision: Branch, tag or commit of the base.
        trust_remote_code: Run modelling code from the repo.

    Returns:
        For each method None if it works, else the sentence that says why not.

    Raises:
        BaseModelError: if the base cannot be found or read.
    """
    _model, anatomy = _read(base, task_type, revision, trust_remote_code)
    return {name: _why_not(get_method(name)(), anatomy) for name in method_names()}


def why_not(
    base: str | Path,
    method: TuningMethod,
    *,
    task_type: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> str | None:
    """Ask one method, with its settings, whether it works on a base.

    Args:
        base: As for :func:`methods_for`, like what follows the method.
        method: The method.
        task_type: See there.
        revision: See there.
        trust_remote_code: See there.

    Returns:
        None if it works, else the sentence that says why not.

    Raises:
        BaseModelError: if the base cannot be found or read.
    """
    _model, anatomy = _read(base, task_type, revision, trust_remote_code)
    return _why_not(method, anatomy)


def _why_not(method: TuningMethod, anatomy: Anatomy) -> str | None:
    try:
        method.check_task_type(anatomy.task_type)
        method.peft_config(anatomy)
    except MethodError as error:
        return str(error)
    return None


def _read(
    base: str | Path, task_type: str | None, revision: str | None, trust_remote_code: bool
) -> tuple[torch.nn.Module, Anatomy]:
    """The base without its weights, and its anatomy, which asks the model when it is asked and does not keep it."""
    found = resolve_base(base, revision=revision, trust_remote_code=trust_remote_code)
    kind = read_task_type(found.config, task_type)
    with torch.device("meta"):
        model = auto_class(kind).from_config(found.config, trust_remote_code=trust_remote_code)  # type: ignore[attr-defined]
    return model, read_anatomy(model, kind, revision=found.commit)
