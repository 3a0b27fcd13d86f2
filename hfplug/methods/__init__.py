"""What can be trained: one file a tuning method, registered by being imported here."""

from __future__ import annotations

from hfplug.methods.bitfit import BitFit
from hfplug.methods.bottleneck import Bottleneck
from hfplug.methods.dora import Dora
from hfplug.methods.embeddings import Embeddings
from hfplug.methods.full import Full
from hfplug.methods.ia3 import IA3
from hfplug.methods.lora import Lora
from hfplug.methods.method import (
    AnatomyView,
    LearningRate,
    Preset,
    Quantization,
    TuningMethod,
    get_method,
    method_names,
    register_method,
    resolve_method,
)
from hfplug.methods.norms import Norms
from hfplug.methods.p_tuning import PTuning
from hfplug.methods.prefix_tuning import PrefixTuning
from hfplug.methods.prompt_tuning import PromptTuning
from hfplug.methods.qlora import QLora
from hfplug.methods.top_layers import TopLayers
from hfplug.methods.tuners.names import register_peft_types

__all__ = [
    "IA3",
    "AnatomyView",
    "BitFit",
    "Bottleneck",
    "Dora",
    "Embeddings",
    "Full",
    "LearningRate",
    "Lora",
    "Norms",
    "PTuning",
    "PrefixTuning",
    "Preset",
    "PromptTuning",
    "QLora",
    "Quantization",
    "TopLayers",
    "TuningMethod",
    "get_method",
    "method_names",
    "register_method",
    "register_peft_types",
    "resolve_method",
]
