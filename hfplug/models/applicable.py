"""Which methods work on a base, found out without reading a weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hfplug.errors import HfplugError, MethodError
from hfplug.methods import TuningMethod, get_method, method_names
from hfplug.methods.values import Default
from hfplug.models.anatomy import Anatomy, count_parameters, read_anatomy
from hfplug.models.base import Base, auto_class, read_task_type, resolve_base
from hfplug.models.matrix_shares import matrix_shares, share_words
from hfplug.models.memory_shapes import bare_model, shape_model


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a method trains of a base.

    Attributes:
        why_not: Why the method does not work on it, or None; then the rest is None.
        trainable: Numbers that are trained.
        total: Numbers of the base.
        share: The one by the other, 0 to 1.
        adapted: Share of the numbers in its matrices, embeddings left out, that carry an adapter; 0 to 1.
        four_bit: Share of these that are in 4 bits; 0 to 1.
        in_words: These two in words; empty if both are 0.
        learning_rate: Advised for AdamW.
        lowest: Below it training hardly moves.
        highest: Above it training usually diverges.
        source: Where the rates are from.
        defaults: What each setting is on it when nothing is said: value, why and source, by name; those only that have
            a reason of their own.
    """

    why_not: str | None
    trainable: int | None = None
    total: int | None = None
    share: float | None = None
    adapted: float | None = None
    four_bit: float | None = None
    in_words: str = ""
    learning_rate: float | None = None
    lowest: float | None = None
    highest: float | None = None
    source: str | None = None
    defaults: Mapping[str, Default] = field(default_factory=dict)


def shares_of(base: str | Path, names: Sequence[str], *, task_type: str | None = None) -> dict[str, Share]:
    """What each method trains of a base, counted on the model without its weights.

    Args:
        base: Repo id or folder; its configuration is read, and the headers of its weights.
        names: Of methods.
        task_type: As for :func:`methods_for`.

    Raises:
        BaseModelError: if the base cannot be found or read.
    """
    found = resolve_base(base)
    kind = read_task_type(found.config, task_type)
    model, anatomy = _read(base, task_type, None, False)
    total = count_parameters(model)
    answers = {}
    for name in names:
        method = get_method(name)().settled(anatomy)
        try:
            method.check_task_type(kind)
            tuned = shape_model(found, kind, method)
        except HfplugError as error:
            answers[name] = Share(why_not=str(error))
            continue
        rate, trainable, in_matrices = (
            method.learning_rate(anatomy),
            count_parameters(tuned, trainable="only"),
            matrix_shares(tuned),
        )
        answers[name] = Share(
            why_not=None,
            trainable=trainable,
            total=total,
            share=trainable / max(1, total),
            adapted=in_matrices["adapted"],
            four_bit=in_matrices["four_bit"],
            in_words=share_words(in_matrices, anatomy),
            learning_rate=rate.value,
            lowest=rate.low,
            highest=rate.high,
            source=rate.source,
            defaults=method.defaults(anatomy),
        )
    return answers


def settled_for(
    base: Base, methods: Sequence[TuningMethod], task_type: str, *, model: torch.nn.Module | None = None
) -> tuple[TuningMethod, ...]:
    """Fix what was not said of methods, for the base that they will be put on; no weight is read.

    Args:
        base: From :func:`~hfplug.models.base.resolve_base`.
        methods: Any methods.
        task_type: PEFT's name of the task type.
        model: The base without its weights, if it is at hand.
    """
    bare = bare_model(base, task_type) if model is None else model
    anatomy = read_anatomy(bare, task_type, revision=base.commit)
    return tuple(method.settled(anatomy) for method in methods)


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
    return {name: _why_not(get_method(name)().settled(anatomy), anatomy) for name in method_names()}


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
    return _why_not(method.settled(anatomy), anatomy)


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
        model = auto_class(kind, found.config).from_config(found.config, trust_remote_code=trust_remote_code)  # type: ignore[attr-defined]
    return model, read_anatomy(model, kind, revision=found.commit)
