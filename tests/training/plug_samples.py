"""Bases, rows and a way to run scripts, for the tests of ``hfplug run`` and ``hfplug.plug``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
)

from hfplug.demo.base import base_path
from hfplug.demo.world import generate
from hfplug.methods import resolve_method
from hfplug.training.launch import run_script
from hfplug.training.launch_patches import patches_for
from hfplug.training.plug_trainer import Plan

SCRIPTS = Path(__file__).parent / "scripts"
ROOT = Path(__file__).parents[2]


def tokenizer() -> Any:
    """The tokenizer of the built-in base, with the special tokens that scripts of every kind look for."""
    made = AutoTokenizer.from_pretrained(base_path())
    made.add_special_tokens({"cls_token": "</s>", "sep_token": "</s>"})
    return made


def make_base(kind: str, folder: Path) -> Path:
    """Save a random model of some ten thousand parameters, with a tokenizer beside it.

    Args:
        kind: ``"t5"``, ``"llama"``, ``"gpt2"`` or ``"bert"`` (whose checkpoint has neither a pooler nor a head).
        folder: Where to.
    """
    torch.manual_seed(0)
    words = tokenizer()
    size = len(words)
    if kind == "t5":
        config: Any = T5Config(
            vocab_size=size, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
        model: Any = T5ForConditionalGeneration(config)
    elif kind == "llama":
        config = LlamaConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
        model = LlamaForCausalLM(config)
    elif kind == "gpt2":
        config = GPT2Config(
            vocab_size=size,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
        model = GPT2LMHeadModel(config)
    else:
        config = BertConfig(
            vocab_size=size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=80,
            pad_token_id=0,
        )
        model = BertForMaskedLM(config)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def dialogues(folder: Path, count: int = 12) -> tuple[Path, Path]:
    """Rows to train on and rows to evaluate on, with ``dialogue`` and ``summary``."""
    rows = [{key: row[key] for key in ("dialogue", "summary")} for row in generate("train", count + 4)]
    return write_rows(folder / "train.json", rows[:count]), write_rows(folder / "eval.json", rows[count:])


def labelled(folder: Path, count: int = 12) -> tuple[Path, Path]:
    """Rows with ``text`` of uneven length and one of three labels."""
    rows = [
        {"text": " ".join(row["dialogue"].split()[: 5 + 3 * (at % 5)]), "label": ["late", "lost", "new"][at % 3]}
        for at, row in enumerate(generate("train", count + 6))
    ]
    return write_rows(folder / "train.json", rows[:count]), write_rows(folder / "eval.json", rows[count:])


def tagged(folder: Path, count: int = 12) -> Path:
    """Rows with ``tokens`` and ``tags``."""
    rows = [row["dialogue"].split()[: 4 + at % 4] for at, row in enumerate(generate("train", count))]
    return write_rows(folder / "tags.json", [{"tokens": row, "tags": [len(word) % 2 for word in row]} for row in rows])


def questions(folder: Path, count: int = 12) -> Path:
    """Rows with ``question``, ``context`` and the places of the answer's first and last token."""
    rows = [
        {"question": "Who?", "context": row["dialogue"], "start": 8 + at % 5, "end": 10 + at % 5}
        for at, row in enumerate(generate("train", count))
    ]
    return write_rows(folder / "questions.json", rows)


def training_flags(output: Path, **flags: Any) -> list[str]:
    """Flags of ``TrainingArguments`` for a short run on the CPU."""
    values = {
        "output_dir": output,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "learning_rate": 1e-2,
        "save_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **flags,
    }
    return [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))]


def environment(**more: str) -> dict[str, str]:
    """The environment of a run: one thread, no network, this package."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths, **more}


def launch(*words: Any, code: int | None = 0, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Type ``hfplug WORDS…`` in a process of its own.

    Args:
        *words: The words.
        code: The exit status that is expected; None for any.
        cwd: The folder to type it in.
        **more: Environment variables.
    """
    return python("-m", "hfplug", *words, code=code, cwd=cwd, **more)


def python(*words: Any, code: int | None = 0, cwd: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """Type ``python WORDS…`` in a process of its own, as for :func:`launch`."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment(**more),
        cwd=cwd,
        timeout=300,
        check=False,
    )
    if code is not None:
        assert done.returncode == code, f"status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done


def metrics_of(output: Path, split: str = "eval") -> dict[str, Any]:
    """What ``trainer.save_metrics`` wrote."""
    return json.loads((output / f"{split}_results.json").read_text(encoding="utf-8"))


def run_here(
    monkeypatch: pytest.MonkeyPatch, script: Path, words: list[str], method: Any, **plan: Any
) -> tuple[int, dict[str, Any]]:
    """What ``hfplug run`` does, in this process, and undone afterwards.

    Args:
        monkeypatch: Of the test.
        script: The script.
        words: Its arguments.
        method: Name of a method, or a method.
        **plan: As for :class:`~hfplug.training.plug_trainer.Plan`.

    Returns:
        The exit status and the script's global names.
    """
    chosen = resolve_method(method)
    patches = patches_for(lambda: Plan(method=chosen, **plan), chosen)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    before = PreTrainedModel.__dict__["from_pretrained"], AutoConfig.__dict__["from_pretrained"]
    try:
        status = run_script(script, [str(word) for word in words], patches=patches)
        return status, vars(sys.modules["__main__"])
    finally:
        PreTrainedModel.from_pretrained, AutoConfig.from_pretrained = before
        # Deleting it would leave a Trainer that takes no arguments.
        Trainer.__new__ = staticmethod(lambda cls, *args, **kwargs: object.__new__(cls))
