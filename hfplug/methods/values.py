"""What a method answers with: how the base is stored, which learning rate, which settings of a paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hfplug.errors import SettingError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How the frozen weights of a base are stored.

    Attributes:
        bits: Bits a weight.
        quant_type: ``"nf4"`` or ``"fp4"`` (Dettmers et al. 2023, section 3).
        double_quant: ``"on"`` quantises the quantisation constants as well (ibid.).
        compute_dtype: dtype of the matrix products, or ``"auto"`` to choose it for the hardware.
        storage_dtype: dtype in which the packed bytes are held; sharding (FSDP) needs it to be that of
            the other weights.
    """

    bits: int = 4
    quant_type: str = "nf4"
    double_quant: str = "on"
    compute_dtype: str = "auto"
    storage_dtype: str = "auto"


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Advice on the learning rate of AdamW for one method on one model.

    Attributes:
        value: What to use when nothing better is known.
        low: Below this, training moves too little to be worth the time.
        high: Above this, training usually diverges.
        source: Where the numbers come from.
    """

    value: float
    low: float
    high: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Default:
    """What a setting should be on a model when nothing is said.

    Attributes:
        value: The value.
        why: One clause: why this value here.
        source: The paper and section, or the library; hfplug's own measurement says so.
    """

    value: Any
    why: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of a method under a name: those of a paper, for the models that it was written about.

    Attributes:
        settings: By name; the others keep their defaults.
        source: The paper, its section, and the models.
        learning_rate: The paper's, or None if it names none. ``hfplug study`` takes it; a script's own
            ``TrainingArguments`` say theirs.
    """

    settings: Mapping[str, Any]
    source: str
    learning_rate: float | None = None


def find_preset(method: str, presets: Mapping[str, Preset], name: object) -> Preset:
    """The preset of a name.

    Args:
        method: The name of the method, for messages.
        presets: Those of the method.
        name: What the user typed.

    Raises:
        SettingError: if the method has none of this name, with those that it has.
    """
    found = presets.get(str(name))
    if found is None:
        known = f"Its presets are: {', '.join(presets)}." if presets else "It has none: its defaults are all there is."
        guess = did_you_mean(str(name), presets)
        raise SettingError(f"{method} has no preset {name!r}.", fix=" ".join(part for part in (guess, known) if part))
    return found
