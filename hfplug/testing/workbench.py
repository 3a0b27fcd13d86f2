"""Very small bases of each kind, and methods trained on them once: what the checks of a method work with."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hfplug.methods import TuningMethod, resolve_method
from hfplug.methods.method import CAUSAL, CLASSIFICATION, SEQ2SEQ
from hfplug.models.applicable import why_not
from hfplug.models.base import read_task_type, resolve_base
from hfplug.models.factory import build_model, load_base

# Kind of base -> PEFT's name of its task type.
KINDS = {"seq2seq": SEQ2SEQ, "causal": CAUSAL, "classification": CLASSIFICATION}
STEPS = 3
ROWS, LENGTH, VOCABULARY = 8, 9, 64


@dataclass(frozen=True)
class Trial:
    """A method that was trained for three steps on a base.

    Attributes:
        method: The method with its settings.
        kind: Of the base: ``"seq2seq"``, ``"causal"`` or ``"classification"``.
        base: Folder of the base.
        model: The trained model.
        before: The bytes of each parameter before training, by name.
        folder: The adapter, as the exporter left it.
    """

    method: TuningMethod
    kind: str
    base: Path
    model: nn.Module
    before: Mapping[str, bytes]
    folder: Path


class Workbench:
    """Bases in a folder, and what was trained on them; each is made when it is first asked for.

    Args:
        folder: For all that is made.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._bases: dict[str, Path] = {}
        self._trials: dict[tuple[TuningMethod, str], Trial] = {}
        self._suited: dict[tuple[TuningMethod, str], Path] = {}

    def base(self, kind: str) -> Path:
        """The folder of a base: a kind of :data:`KINDS`, or ``"seq2seq with biases"`` or ``"causal with biases"``."""
        if kind not in self._bases:
            folder = self.folder / "bases" / kind
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                _make(kind).save_pretrained(folder)
            self._bases[kind] = folder
        return self._bases[kind]

    def base_for(self, method: str | TuningMethod, kind: str) -> Path:
        """The base of a kind that a method works on: T5 and Llama have no biases, so there are two more that do."""
        chosen = resolve_method(method)
        if (chosen, kind) not in self._suited:
            plain, other = self.base(kind), f"{kind} with biases"
            refused = other in _MADE and why_not(plain, chosen) is not None
            self._suited[chosen, kind] = self.base(other) if refused else plain
        return self._suited[chosen, kind]

    def trial(self, method: str | TuningMethod, kind: str) -> Trial:
        """A method trained on a base of a kind; once, however often it is asked for."""
        chosen = resolve_method(method)
        if (chosen, kind) not in self._trials:
            self._trials[chosen, kind] = self._train(chosen, kind)
        return self._trials[chosen, kind]

    def _train(self, method: TuningMethod, kind: str) -> Trial:
        base = self.base_for(method, kind)
        torch.manual_seed(3)
        model = build_model(base, method)
        before = parameter_bytes(model)
        out = self.folder / f"{method.name}-{kind}-{len(self._trials)}"
        trainer = train(model, kind, out)
        return Trial(method, kind, base, trainer.model, before, out / "adapter")


@functools.cache
def shared_workbench() -> Workbench:
    """The workbench of this process; its folder goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="hfplug-testing-")
    bench = Workbench(folder.name)
    bench.kept = folder  # type: ignore[attr-defined]  # removed when it is collected, so it is held here
    return bench


def train(model: Any, kind: str, out: Path, *, resume: Path | None = None, **arguments: Any) -> Any:
    """Three steps of an ordinary Trainer with hfplug's callbacks.

    Args:
        model: What ``build_model`` made.
        kind: Of its base.
        out: Output folder; the adapter is in ``out / "adapter"`` afterwards.
        resume: A checkpoint to go on from.
        arguments: Of ``TrainingArguments``, where others are wanted.

    Returns:
        The Trainer.
    """
    from transformers import Trainer, TrainingArguments

    from hfplug.training.callbacks import adapter_callbacks

    values = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "save_steps": STEPS,
        "report_to": "none",
        "disable_tqdm": True,
        **arguments,
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(out), **values),
        train_dataset=training_rows(kind),
        callbacks=adapter_callbacks(),
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return trainer


def inputs_for(kind: str) -> dict[str, torch.Tensor]:
    """Four rows of ids, the same every time: shape (4, 9)."""
    ids = torch.randint(3, VOCABULARY, (4, LENGTH), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return batch | ({"decoder_input_ids": ids[:, :3]} if kind == "seq2seq" else {})


def training_rows(kind: str) -> Any:
    """Eight rows to train on, as a data set."""
    from datasets import Dataset

    ids = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(2)).tolist()
    labels = [row[0] % 3 for row in ids] if kind == "classification" else [row[:5] for row in ids]
    if kind == "causal":
        labels = ids
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * LENGTH] * ROWS, "labels": labels})


def logits(model: Any, kind: str) -> torch.Tensor:
    """What a model in eval mode gives for :func:`inputs_for`."""
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(**inputs_for(kind)).logits
        return found


def parameter_bytes(model: nn.Module) -> dict[str, bytes]:
    """The bytes of every parameter, by name."""
    return {
        name: parameter.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for name, parameter in model.named_parameters()
    }


def plain_base(trial: Trial) -> Any:
    """The base of a trial once more, loaded as its method wants it, with nothing on it."""
    found = resolve_base(trial.base)
    model, _ = load_base(found, read_task_type(found.config), trial.method)
    return model


_BART_SIDES = {
    f"{side}_{part}": size
    for side in ("encoder", "decoder")
    for part, size in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 128))
}
_ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128}
_DEPTH = {"num_hidden_layers": 2, "num_attention_heads": 4}
# Kind -> class of transformers, and settings of its configuration.
_MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "seq2seq": (
        "T5ForConditionalGeneration",
        {
            **{"vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 128},
            **{"num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
        },
    ),
    "causal": ("LlamaForCausalLM", {**_SIZES, **_DEPTH, **_ENDS}),
    "classification": ("BertForSequenceClassification", {**_SIZES, **_DEPTH, "num_labels": 3}),
    "seq2seq with biases": (
        "BartForConditionalGeneration",
        {"vocab_size": VOCABULARY, "d_model": 64, **_BART_SIDES, **_ENDS},
    ),
    "causal with biases": (
        "GPT2LMHeadModel",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, **_ENDS},
    ),
}


def _make(kind: str) -> Any:
    import transformers

    name, settings = _MADE[kind]
    cls = getattr(transformers, name)
    return cls(cls.config_class(**settings))
