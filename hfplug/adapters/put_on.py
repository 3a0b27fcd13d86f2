"""An adapter onto a base that is loaded already: its checks, and PEFT's own loading."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.fit import check_nothing_random, check_tensors, fit_vocabulary
from hfplug.adapters.lock import check
from hfplug.errors import MismatchError
from hfplug.methods import TuningMethod
from hfplug.methods.tuners.names import calling_peft
from hfplug.models.anatomy import read_anatomy
from hfplug.models.base import Base
from hfplug.models.factory import Applied, remember
from hfplug.models.placeholders import see_to_input, showing_table

logger = logging.getLogger(__name__)

Verify = Literal["off", "lock", "probe"]


@dataclass(frozen=True, kw_only=True)
class LoadedBase:
    """A base in memory.

    Attributes:
        model: The transformers model. PEFT puts its layers into it.
        found: Where it came from.
        task_type: PEFT's name of the task type that it was loaded for.
        missing: Names of the parameters that its checkpoint did not hold.
    """

    model: nn.Module
    found: Base
    task_type: str
    missing: tuple[str, ...] = ()


def put_on(
    adapter: AdapterDir, base: LoadedBase, method: TuningMethod, *, tokenizer: Any = None, verify: Verify = "lock"
) -> nn.Module:
    """Put an adapter onto a loaded base, and compare the base with the lock first.

    Args:
        adapter: The adapter's folder, its files checked already (:func:`~hfplug.adapters.fit.check_files`).
        base: The base. Its model is changed: it gets the adapter's layers, and as many rows in its embedding as
            the adapter was trained with.
        method: The method of the adapter.
        tokenizer: Compared with the lock if given.
        verify: ``"off"`` puts on whatever fits.

    Returns:
        A ``PeftModel`` in eval mode.

    Raises:
        MismatchError: The base or the tokenizer is another one, the adapter's tensors do not all fit, or a head would
            stay random.
    """
    model, found = base.model, base.found
    anatomy = read_anatomy(model, base.task_type, missing_keys=base.missing, revision=found.commit)
    try:
        rows = fit_vocabulary(model, adapter, tokenizer)
    except MismatchError:
        if verify != "off":
            raise
        rows = None
    lock = adapter.lock
    if verify != "off":
        check_nothing_random(base.missing, adapter)
        if lock is not None:
            known: dict[str, Any] = {"base_commit": found.commit, "checkpoint_rows": rows}
            check(lock, model, tokenizer, task=adapter.task, **known)
    tuned: Any = _let_peft_load(model, adapter, method)
    see_to_input(tuned, method, anatomy)
    if verify != "off":
        check_tensors(tuned, adapter)
    if lock is not None and lock.label_names:
        tuned.config.id2label = dict(enumerate(lock.label_names))
        tuned.config.label2id = {name: number for number, name in enumerate(lock.label_names)}
    tuned.eval()
    remember(tuned, Applied(method=method, anatomy=anatomy, base_name=found.name, base_commit=found.commit))
    return tuned


def note_what_is_unknown(adapter: AdapterDir) -> None:
    """Say in the log what a folder without a lock, or with an old one, leaves unchecked."""
    lock = adapter.lock
    if lock is None:
        logger.warning(
            "%s has no lock of hfplug: whether this is the base, the commit, the vocabulary, the tokenizer and the"
            " prompt that it was trained with could not be checked; only that every tensor has its place.",
            adapter.path,
        )
    elif not lock.weights_sha256:
        logger.info("The lock of %s holds no sums: whether a tensor was changed could not be checked.", adapter.path)


def reason_of(error: Exception) -> str:
    """The line that says what is wrong; torch puts a heading before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "size mismatch" in line), lines[0] if lines else type(error).__name__)


def _let_peft_load(model: nn.Module, adapter: AdapterDir, method: TuningMethod) -> nn.Module:
    from peft import PeftModel

    from hfplug.methods.tuners.layers import let_unload

    try:
        with calling_peft(), showing_table(model, method):
            tuned = PeftModel.from_pretrained(model, str(adapter.path))
            let_unload(tuned)
            return tuned
    except KeyError as error:
        raise MismatchError(
            f"The adapter in {str(adapter.path)!r} lacks the tensor {error}, which its settings announce.",
            fix="Export it again from its checkpoint, or pass the base that it was trained on.",
        ) from error
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise MismatchError(
            f"The adapter in {str(adapter.path)!r} does not fit its base: {reason_of(error)}",
            fix="Pass the base that it was trained on.",
        ) from error
