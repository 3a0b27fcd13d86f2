"""Which methods work on a base, found out without reading a weight."""

from __future__ import annotations

from pathlib import Path

import torch

from hfplug.errors import MethodError
from hfplug.methods import get_method, method_names
from hfplug.models.anatomy import read_anatomy
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
    found = resolve_base(base, revision=revision, trust_remote_code=trust_remote_code)
    kind = read_task_type(found.config, task_type)
    with torch.device("meta"):
        model = auto_class(kind).from_config(found.config, trust_remote_code=trust_remote_code)  # type: ignore[attr-defined]
    anatomy = read_anatomy(model, kind, revision=found.commit)
    answers: dict[str, str | None] = {}
    for name in method_names():
        method = get_method(name)()
        try:
            method.check_task_type(kind)
            method.peft_config(anatomy)
        except MethodError as error:
            answers[name] = str(error)
        else:
            answers[name] = None
    return answers
