"""How PEFT gets to know the kinds of adapters that hfplug adds.

PEFT finds the classes of a kind in dictionaries, by the word ``peft_type`` of ``adapter_config.json``. Its own
``register_peft_method`` takes only the words of an enumeration that it does not let others extend, so the entries are
made here. The words begin with HFPLUG, so that where hfplug was not imported PEFT's ``KeyError`` names what is missing.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any

# Word, and the module in this folder with its classes ``Config`` and ``Model``.
_TUNERS = {"HFPLUG_BITFIT": "bias", "HFPLUG_BOTTLENECK": "bottleneck"}


class PeftWord(str):
    """A word for ``peft_type`` that is used as PEFT uses the members of its enumeration."""

    @property
    def value(self) -> str:
        """The word itself."""
        return str(self)


def is_added(peft_type: object) -> bool:
    """Whether hfplug adds this kind of adapter to PEFT, so that PEFT alone cannot load it.

    Args:
        peft_type: The word in ``adapter_config.json``.
    """
    return str(peft_type).upper() in _TUNERS


def register_peft_types() -> None:
    """Let PEFT load adapters of the kinds that hfplug adds; after the first call it does nothing.

    ``hfplug.load_adapter`` and the methods call it. For ``peft.PeftModel.from_pretrained`` call it yourself.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    tables: tuple[dict[Any, Any], ...] = (
        PEFT_TYPE_TO_CONFIG_MAPPING,
        PEFT_TYPE_TO_TUNER_MAPPING,
        PEFT_TYPE_TO_PREFIX_MAPPING,
    )
    for word, module in _TUNERS.items():
        if word in tables[0]:
            continue
        made = import_module(f"hfplug.methods.tuners.{module}")
        for table, entry in zip(tables, (made.Config, made.Model, made.Model.prefix), strict=True):
            table[PeftWord(word)] = entry


@contextlib.contextmanager
def calling_peft() -> Iterator[None]:
    """PEFT without the warning that a copied layer (a norm, say) has no input and output width that it knows of."""
    register_peft_types()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unsupported layer type")
        yield
