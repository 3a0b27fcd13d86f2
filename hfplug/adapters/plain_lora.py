"""Whether a LoRA is W + s * B A and nothing more, as other engines take it for granted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Starting values that leave the base as it is. The others (PiSSA, OLoRA, CorDA, LoftQ) take their part out of it.
_HARMLESS_STARTS = frozenset({"gaussian", "eva", "orthogonal", "lora_ga"})
# Settings of PEFT's LoraConfig that make it more than W + s * B A beside existing layers.
_MORE_THAN_LORA = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "lora_bias", "modules_to_save",
    "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora",
    "velora_config",
)  # fmt: skip


def more_than_lora(config: Mapping[str, Any]) -> str:
    """Why a LoRA is more than W + s * B A beside existing layers; an empty text if it is not.

    Args:
        config: Its settings, as in PEFT's ``adapter_config.json``.
    """
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _HARMLESS_STARTS:
        return f"init_lora_weights={start!r} changes the base when it is loaded"
    if config.get("bias", "none") != "none":
        return f"it has trained biases (bias={config['bias']!r})"
    more = next((key for key in _MORE_THAN_LORA if config.get(key)), None)
    return f"{more} is set" if more else ""
