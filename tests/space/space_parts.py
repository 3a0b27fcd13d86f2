"""Real parts for the tests of the Space: exports of adapters on the built-in base, and a gate before a Hub."""

from __future__ import annotations

import asyncio
import dataclasses

import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.lock import make_lock
from hfplug.adapters.probe import make_probe
from hfplug.adapters.record import Record
from hfplug.demo.base import base_path
from hfplug.demo.tasks import TASKS

ALICES_TOKEN = "hf_" + "alice" * 7 + "aa"
BOBS_TOKEN = "hf_" + "bobbo" * 7 + "bb"
_CONFIGS = {
    "lora": lambda: LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=["q", "v"]),
    "prompt_tuning": lambda: PromptTuningConfig(
        task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4, num_transformer_submodules=1
    ),
}


def export_adapter(folder, method="lora", *, seed=1, base=None, base_name=None, base_commit=None):
    """What the exporter leaves: weights drawn from ``seed``, record, lock with a probe, task."""
    base = base or base_path()
    model = AutoModelForSeq2SeqLM.from_pretrained(base).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    name = base_name or str(base)
    model.name_or_path = model.config._name_or_path = name
    tuned = get_peft_model(model, _CONFIGS[method]())
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn_like(parameter))
    tuned.eval()
    checkpoint = folder.parent / f"{folder.name}-checkpoint"
    tuned.save_pretrained(checkpoint, save_embedding_layers=False)
    task = TASKS["summary"]
    lock = make_lock(tuned, tokenizer, base_name=name, base_commit=base_commit, task=task)
    lock = dataclasses.replace(lock, probe=make_probe(tuned, tokenizer, task=task))
    record = Record(method=method, task="summary", base=name, base_commit=base_commit)
    AdapterDir.write(folder, source=checkpoint, record=record, lock=lock, task=task, tokenizer_files=[])
    return folder


class Gate:
    """Stands before a Hub: slows calls down, refuses them, or does what is asked and loses the answer.

    Attributes:
        slow: Path's part to seconds. refuse: Path's part to a status. lose: Paths' parts whose next answer is lost.
        seen: Every call that came, as ``"GET /api/…"``.
    """

    def __init__(self):
        self.slow, self.refuse, self.lose, self.seen = {}, {}, [], []

    def around(self, app):
        async def gated(scope, receive, send):
            if scope["type"] != "http":
                return await app(scope, receive, send)
            path = scope["path"]
            self.seen.append(f"{scope['method']} {path}")
            for part, seconds in self.slow.items():
                if part in path:
                    await asyncio.sleep(seconds)
            status = next((status for part, status in self.refuse.items() if part in path), None)
            if status is not None:
                return await _answer(send, status)
            lost = next((part for part in self.lose if part in path and scope["method"] == "POST"), None)
            if lost is None:
                return await app(scope, receive, send)
            self.lose.remove(lost)

            async def nowhere(message):
                return None

            await app(scope, receive, nowhere)
            await _answer(send, 502)

        return gated


async def _answer(send, status):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"the gate"})
