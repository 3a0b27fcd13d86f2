"""Small, real adapters to compare: as hfplug exports them, and as PEFT alone leaves them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.lock import make_lock
from hfplug.adapters.probe import make_probe
from hfplug.adapters.record import Record
from hfplug.comparison.presets import SUMMARY
from hfplug.models.factory import build_model

TASK = dataclasses.replace(
    SUMMARY, reference_columns=("reference_2",), max_input_tokens=256, decoding={"max_new_tokens": 8}
)
COST = {
    "parameter_efficiency": {"trainable_parameters": 1234, "total_parameters": 56_789, "share": 0.0217},
    "memory_efficiency": {
        "peak_training_bytes": 1000, "weights": 400, "gradients": 100, "optimizer_states": 200, "rest": 300,
        "process_peak_bytes": 9000,
    },
    "training_speed": {"seconds_per_step": 0.5, "real_tokens_per_second": 99.0, "padding_share": 0.1},
    "steps": 7, "learning_rate": 0.01, "loss_curve": ((1, 5.0), (7, 3.0)),
}  # fmt: skip


def export(folder: Path, base: Path, method: str, *, task=TASK, seed=1, base_name=None, **record) -> Path:
    """What the exporter leaves of one run of a method: weights, record, lock with a probe, task."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = build_model(str(base), method)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.eval()
    checkpoint = folder.with_name(f"{folder.name}-checkpoint")
    model.save_pretrained(checkpoint, **({} if method == "full" else {"save_embedding_layers": False}))
    if method == "full":
        tokenizer.save_pretrained(checkpoint)
    lock = make_lock(model, tokenizer, base_name=base_name or str(base), task=task)
    lock = dataclasses.replace(lock, probe=make_probe(model, tokenizer, task=task))
    values = {"method": method, "base": base_name or str(base), **COST, **record}
    AdapterDir.write(folder, source=checkpoint, record=Record(**values), lock=lock, task=task)
    return folder


def plain_loha(folder: Path, base: Path) -> Path:
    """What PEFT alone leaves of a method that hfplug has none of its own for."""
    from peft import LoHaConfig, get_peft_model
    from transformers import AutoModelForSeq2SeqLM

    config = LoHaConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=["q", "v"], init_weights=False)
    model = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(base), config)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def change_json(file: Path, change) -> None:
    """Change the object in a JSON file with nobody told."""
    values = json.loads(file.read_text(encoding="utf-8"))
    change(values)
    file.write_text(json.dumps(values), encoding="utf-8")


def tree(folder: Path) -> dict[str, bytes]:
    """Path to bytes of every file."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
