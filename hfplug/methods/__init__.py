"""What can be trained: one file a tuning method, registered by being imported here."""

from __future__ import annotations

from hfplug.methods.full import Full
from hfplug.methods.ia3 import IA3
from hfplug.methods.lora import Lora
from hfplug.methods.method import (
    AnatomyView,
    LearningRate,
    Quantization,
    TuningMethod,
    get_method,
    method_names,
    register_method,
    resolve_method,
)
from hfplug.methods.p_tuning import PTuning
from hfplug.methods.prefix_tuning import PrefixTuning
from hfplug.methods.prompt_tuning import PromptTuning
from hfplug.methods.qlora import QLora

__all__ = [
    "IA3",
    "AnatomyView",
    "Full",
    "LearningRate",
    "Lora",
    "PTuning",
    "PrefixTuning",
    "PromptTuning",
    "QLora",
    "Quantization",
    "TuningMethod",
    "get_method",
    "method_names",
    "register_method",
    "resolve_method",
]
