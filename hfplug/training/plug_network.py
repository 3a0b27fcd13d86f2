"""A prompt that a network computes (P-tuning, prefix tuning with a projection): the network beside what Trainer saves.

PEFT saves what the network gives, which is all that the adapter needs, and nothing to go on training from. So a plugged
Trainer puts the network into its checkpoints and its output folder, as a file of its own. An exported adapter never
holds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

NETWORK_FILE = "prompt_network.safetensors"


def prompt_network(model: Any) -> list[str]:
    """Names of the trained tensors of a network that computes the prompt; it is not saved, only what it gives.

    Args:
        model: A ``PeftModel``.
    """
    return [
        name
        for name, one in model.named_parameters()
        if one.requires_grad and name.startswith("prompt_encoder.") and not name.endswith(".embedding.weight")
    ]


def save_network(model: Any, folder: Path) -> None:
    """Write the network that computes the prompt into a checkpoint; nothing for a model without one.

    Args:
        model: A ``PeftModel``.
        folder: A checkpoint, or another folder that Trainer wrote just now.
    """
    if not prompt_network(model) or not folder.is_dir():
        return
    from safetensors.torch import save_file

    names = {name: one for name, one in model.named_parameters() if _of_the_network(name, one)}
    written = folder / f"{NETWORK_FILE}.part"
    save_file({name: one.detach().cpu().contiguous() for name, one in names.items()}, written)
    written.replace(folder / NETWORK_FILE)


def load_network(model: Any, folder: Path) -> None:
    """Put the network of a checkpoint back, so that it computes the prompt again and trains on.

    Args:
        model: A ``PeftModel`` into which the checkpoint's adapter was loaded: since then its prompt is what was saved.
        folder: The checkpoint; one without the file changes nothing.
    """
    if not (folder / NETWORK_FILE).is_file() or not prompt_network(model):
        return
    import torch
    from safetensors.torch import load_file

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in load_file(folder / NETWORK_FILE).items():
            parameters[name].copy_(value)
    for encoder in model.prompt_encoder.values():
        encoder.__dict__.pop("forward", None)
        encoder._buffers.pop("settled", None)
        encoder._non_persistent_buffers_set.discard("settled")


def _of_the_network(name: str, parameter: Any) -> bool:
    return bool(parameter.requires_grad) and name.startswith("prompt_encoder.")
