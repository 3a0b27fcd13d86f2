"""Further folders for the Space: a fully tuned model, an adapter whose probe fails, a pickle, a hostile card."""

from __future__ import annotations

import json
import shutil

import torch
from transformers import AutoModelForSeq2SeqLM

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.record import Record
from hfplug.demo.base import base_path
from hfplug.demo.tasks import TASKS


def fully_tuned(folder, seed=3):
    """The built-in base with every weight a little off, as full tuning leaves it."""
    model = AutoModelForSeq2SeqLM.from_pretrained(base_path())
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    checkpoint = folder.parent / f"{folder.name}-checkpoint"
    model.save_pretrained(checkpoint)
    record = Record(method="full", task="summary", base=str(base_path()))
    AdapterDir.write(folder, source=checkpoint, record=record, task=TASKS["summary"], tokenizer_files=[])
    return folder


def failing_probe(adapter, folder):
    """The adapter, whose author claims to have seen other logits."""
    shutil.copytree(adapter, folder)
    lock = json.loads((folder / "hfplug_lock.json").read_text())

    def shifted(value):
        return [shifted(one) for one in value] if isinstance(value, list) else value + 1.5

    for answer in lock["probe"]["inputs"]:
        answer["values"] = shifted(answer["values"])
    (folder / "hfplug_lock.json").write_text(json.dumps(lock))
    return folder


def pickled(adapter, folder):
    """The adapter with its weights as a pickle, which nobody is to read."""
    shutil.copytree(adapter, folder)
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04K\x01.")
    return folder


def retold(adapter, folder):
    """The adapter with markup in everything that its owner may write freely."""
    shutil.copytree(adapter, folder)
    for name in ("hfplug_record.json", "hfplug_task.json"):
        values = json.loads((folder / name).read_text())
        if name == "hfplug_record.json":
            values["notes"] = ["<img src=x onerror='window.hacked=1'>"]
            values["task"] = "<script>window.hacked=1</script>"
        else:
            values["name"] = "<script>window.hacked=1</script>"
        (folder / name).write_text(json.dumps(values))
    return folder
