"""Exports of adapters over tiny bases in a folder, for the tests of pulling."""

from __future__ import annotations

import dataclasses
import json

import torch
from made_adapters import make_llama, make_tokenizer
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.lock import make_lock
from hfplug.adapters.probe import make_probe
from hfplug.adapters.record import Record
from hfplug.adapters.task import Task
from hfplug.hub.pull import pull_adapter
from hfplug.hub.push import push_adapter

REPO = "alice/pulled"
BASE_ID = "alice/tiny-llama"
TASK = Task(name="summary", prompt="Summarize. {dialogue}")


class Pulling:
    """One Hub, a base in a folder, and adapters made for it.

    Attributes:
        hub: The Hub. folder: A folder of the test. base: The base's folder.
    """

    def __init__(self, hub, folder):
        self.hub, self.folder, self.base = hub, folder, folder / "base"
        make_llama().save_pretrained(self.base)
        make_tokenizer().save_pretrained(self.base)

    def export(self, name="export", *, seed=1, base=None, model=None, method="lora", commit=None, **metrics):
        """What the exporter leaves: record, lock with a probe, task."""
        tuned = self._tuned(base or self.base, model, LoraConfig(task_type="CAUSAL_LM", r=2), seed)
        tuned.save_pretrained(self.folder / f"{name}-checkpoint", save_embedding_layers=False)
        lock = make_lock(tuned, make_tokenizer(), base_name=BASE_ID, base_commit=commit, task=TASK)
        lock = dataclasses.replace(lock, probe=make_probe(tuned, make_tokenizer(), task=TASK))
        performance = {"metrics": {"rouge1": {"value": 0.3, "low": 0.2, "high": 0.4}, **metrics}}
        record = Record(method=method, task="summary", base=BASE_ID, base_commit=commit, model_performance=performance)
        source = self.folder / f"{name}-checkpoint"
        AdapterDir.write(self.folder / name, source=source, record=record, lock=lock, task=TASK, tokenizer_files=[])
        return self.folder / name

    def plain(self, name="plain", *, kind="lora", seed=1):
        """What PEFT alone leaves."""
        config = {"lora": LoraConfig(task_type="CAUSAL_LM", r=2), "ia3": IA3Config(task_type="CAUSAL_LM")}[kind]
        tuned = self._tuned(self.base, None, config, seed)
        tuned.save_pretrained(self.folder / name, save_embedding_layers=False)
        return self.folder / name, tuned

    def _tuned(self, base, model, config, seed):
        from transformers import AutoModelForCausalLM

        model = model or AutoModelForCausalLM.from_pretrained(base)
        model.name_or_path = model.config._name_or_path = BASE_ID
        tuned = get_peft_model(model, config)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        return tuned.eval()

    def push(self, adapter=None, repo_id=REPO, **options):
        """Push as alice, and return the commit."""
        adapter = adapter or self.export()
        return push_adapter(
            adapter, repo_id, endpoint=self.hub.endpoint, token=self.hub.token, timeout=10, **options
        ).commit

    def upload(self, name, data, repo_id=REPO):
        """Change one file on the Hub behind hfplug's back, and return the commit."""
        return self.hub.api.upload_file(path_or_fileobj=data, path_in_repo=name, repo_id=repo_id).oid

    def pull(self, repo_id=REPO, **options):
        """Pull as alice into the Hub's own cache."""
        options = {"token": self.hub.token, "cache_dir": self.hub.cache, **options}
        return pull_adapter(repo_id, endpoint=self.hub.endpoint, **options)


def change_weights(folder, change):
    """Change the tensors of a folder, with nobody told."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return file.read_bytes()


def change_json(file, **values):
    """The bytes of a JSON file with some values changed."""
    return json.dumps(json.loads(file.read_text()) | values).encode()


def tree(folder):
    """Path to bytes of every file."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
