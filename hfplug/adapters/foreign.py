"""Which method an adapter was made with; also for the methods that PEFT has and hfplug has none of its own for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.errors import AdapterError, MethodError, SettingError
from hfplug.methods import Quantization, TuningMethod, get_method, method_names
from hfplug.methods.method import AnatomyView, LearningRate
from hfplug.methods.soft_prompts import peft_prefix, peft_vectors

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

# These are no adapter of one base: their configuration names further repos, which PEFT would fetch, pickles and all.
_REFERS_TO_OTHERS = {"XLORA": "names other adapters to be fetched"}
# Types whose layers hold what they train beside the base's weights (PEFT 0.21).
_LEAVES_THE_BASE = ("ADALORA", "BOFT", "IA3", "LN_TUNING", "LOHA", "LOKR", "OFT", "TRAINABLE_TOKENS", "VERA")


@dataclass(frozen=True, kw_only=True)
class ForeignMethod(TuningMethod):
    """A method that PEFT has and hfplug has not: it can be loaded, asked and switched off, but not trained here."""

    name: ClassVar[str] = "foreign"
    category: ClassVar[str] = "additive"
    flag_prefix: ClassVar[str] = "foreign"
    summary: ClassVar[str] = "made with PEFT; hfplug has no method of this name"
    paper: ClassVar[str] = "see PEFT"
    merging: ClassVar[str] = "unknown: ask PEFT's merge_and_unload"

    is_prompt: ClassVar[str] = "no"
    positions: ClassVar[int] = 0

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        raise MethodError(f"hfplug has no method {self.name!r} and so no advice on its learning rate.")

    def virtual_tokens(self) -> int:
        return self.positions

    def input_vectors(self, model: nn.Module) -> Tensor | None:
        return peft_vectors(model) if self.is_prompt == "yes" and self.positions else None

    def cached_prefix(self, model: nn.Module) -> tuple[tuple[Tensor, Tensor] | None, ...] | None:
        return peft_prefix(model) if self.is_prompt == "yes" and not self.positions else None

    def loading(self, config: Mapping[str, Any]) -> Literal["beside", "into"]:
        """Said of the types whose layers were read; of any other the worse is taken for granted."""
        return "beside" if self.is_prompt == "yes" or self.name.upper() in _LEAVES_THE_BASE else "into"

    @contextlib.contextmanager
    def switched_off(self, model: nn.Module) -> Iterator[nn.Module]:
        if self.is_prompt == "yes":
            # PEFT's disable_adapter leaves whatever is a prompt on in generate.
            with get_method("prompt_tuning")().switched_off(model) as plain:
                yield plain
        else:
            with super().switched_off(model) as plain:
                yield plain


def method_of(adapter: AdapterDir) -> TuningMethod:
    """The method that an adapter was made with: from its record, else from its PEFT configuration.

    Args:
        adapter: An adapter's folder.

    Returns:
        The method. One that hfplug does not have is a :class:`ForeignMethod` of that name, and a note is logged.

    Raises:
        AdapterError: The installed PEFT does not know this type of adapter, or it is not one that stands alone.
    """
    if adapter.kind == "full":
        return get_method("full")()
    record = adapter.record
    if record is not None and record.method in method_names():
        try:
            return get_method(record.method).from_settings(record.all_method_settings)
        except SettingError:
            # Written by another version: the settings of a trained adapter are in PEFT's own file anyway.
            return get_method(record.method)()
    peft_type = str(adapter.config.get("peft_type")).upper()
    method = next((get_method(name) for name in method_names() if get_method(name).recognises(adapter.config)), None)
    if method is None:
        return _foreign(adapter, peft_type)
    # A soft prompt takes positions of the input, so its length matters after training too.
    return method.from_settings(
        {name: adapter.config[name] for name in ("num_virtual_tokens",) if name in adapter.config}
    )


def recipe_of(adapter: AdapterDir, method: TuningMethod) -> Quantization | None:
    """How the base is to be quantised: as the lock says, also where the method itself would not.

    The format of the products is left to this machine: in one that it has no units for, they can take twenty times
    as long.

    Args:
        adapter: An adapter's folder.
        method: Its method.
    """
    own = method.quantization()
    settings: Mapping[str, Any] = (adapter.lock.quantization if adapter.lock else None) or {}
    if own is not None or not settings.get("load_in_4bit"):
        return own
    return Quantization(
        quant_type=str(settings.get("bnb_4bit_quant_type") or "nf4"),
        double_quant="on" if settings.get("bnb_4bit_use_double_quant") else "off",
    )


def _foreign(adapter: AdapterDir, peft_type: str) -> TuningMethod:
    from peft import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {str(getattr(one, "value", one)): cls for one, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if peft_type not in known:
        raise AdapterError(
            f"The installed PEFT knows no adapters of type {peft_type!r} ({adapter.path}).",
            fix="Type: pip install --upgrade peft",
        )
    if peft_type in _REFERS_TO_OTHERS:
        raise AdapterError(
            f"An adapter of type {peft_type!r} does not stand alone: it {_REFERS_TO_OTHERS[peft_type]}.",
            fix="If you trust all of them, load it with peft.PeftModel.from_pretrained.",
        )
    is_prompt = issubclass(known[peft_type], PromptLearningConfig)
    takes_positions = is_prompt and peft_type in ("P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT")
    name = peft_type.lower()
    logger.warning(
        "hfplug has no method for adapters of PEFT type %s: PEFT loads %s by itself, and hfplug checks what it can.",
        peft_type,
        adapter.path,
    )
    values = {
        "name": name,
        "is_prompt": "yes" if is_prompt else "no",
        "merging": "no: it is an input, there is no weight to merge it into" if is_prompt else ForeignMethod.merging,
        "positions": int(adapter.config.get("num_virtual_tokens") or 0) if takes_positions else 0,
        "__doc__": ForeignMethod.__doc__,
        "__module__": __name__,
    }
    return type("ForeignMethod", (ForeignMethod,), values)()
