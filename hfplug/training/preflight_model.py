"""Preflight checks of the model: what trains, what is saved, what comes back, and what it takes."""

from __future__ import annotations

from typing import Any

import torch

from hfplug.errors import SettingError
from hfplug.methods.method import HEADS_OF_PEFT
from hfplug.models import hardware
from hfplug.models.ends import embedding_rows, input_embedding, output_embedding
from hfplug.models.factory import applied_to
from hfplug.models.memory import gradient_bytes, tensor_bytes, weight_bytes, weight_tensors
from hfplug.models.memory_optimizers import DEFAULT_OPTIMIZER, find_optimizer, state_bytes
from hfplug.models.soft_outputs import extra_positions
from hfplug.models.tensor_memory import TensorMemory
from hfplug.training.guard import check_trainable
from hfplug.training.load_notes import checkpoint_rows
from hfplug.training.plug_exchange import is_plugged
from hfplug.training.preflight_sample import Sample, has_adapter, token_count
from hfplug.training.preflight_saving import saved_tensors

Result = tuple[str, str, str]


def trains_what_is_saved(trainer: Any, sample: Sample) -> Result:
    """Are the tensors that train just those that are saved?"""
    check_trainable(trainer.model)
    trained = [one for one in trainer.model.parameters() if one.requires_grad]
    count = sum(one.numel() for one in trained)
    return "ok", f"{len(trained)} tensors with {count:,} numbers train, and all are saved", ""


def saved_head(trainer: Any, sample: Sample) -> Result:
    """Is a head, or what else starts at random, saved with the adapter?"""
    applied = applied_to(trainer.model)
    new = applied.anatomy.new_modules if applied is not None else ()
    if not has_adapter(trainer.model):
        return "ok", "the whole model is saved", ""
    if not new:
        return "ok", "nothing starts at random", ""
    saved = saved_tensors(trainer.model)
    absent = [name for name in new if not any(f".{name}." in f".{key}" for key in saved)]
    if absent:
        return (
            "error",
            f"{', '.join(absent)} starts at random and is not saved with the adapter.",
            ("Name it in modules_to_save; this is a bug of hfplug's, please report it."),
        )
    is_head = applied is not None and applied.anatomy.task_type in HEADS_OF_PEFT
    return "ok", f"{', '.join(new)} is trained and saved" + (" (the head)" if is_head else ""), ""


def saved_embedding(trainer: Any, sample: Sample) -> Result:
    """Would the whole embedding be saved, and why?"""
    model = trainer.model
    if not has_adapter(model):
        return "ok", "the whole model is saved", ""
    base, config = model.get_base_model(), model.active_peft_config
    tables = [one for one in (input_embedding(base), output_embedding(base)) if one is not None]
    inside = {id(part) for table in tables for part in table.modules()}
    names = sorted(name for name, module in base.named_modules() if id(module) in inside)
    size = tensor_bytes(_weight_of(table) for table in tables)
    chosen = [name for name in _named(config, "modules_to_save") if any(_is_named(one, name) for one in names)]
    if chosen:
        reason = f"as {', '.join(chosen)} is in modules_to_save"
        advice = "Use lora, which saves the new rows alone, or leave it out of modules_to_save."
        return "warning", f"the whole embedding ({size / 1e6:,.1f} MB) is saved with the adapter, {reason}.", advice
    setting = model._hfplug.save_embeddings if is_plugged(model) else "auto"
    rows, there = embedding_rows(base), checkpoint_rows(model)
    if setting == "auto" and rows is not None and there is not None and rows != there:
        return (
            "warning",
            f"the whole embedding ({size / 1e6:,.1f} MB) is saved with the adapter, as the vocabulary was resized from "
            f"{there:,} to {rows:,} rows.",
            "Use lora, which saves the new rows alone, or do not add tokens that are not needed.",
        )
    targets = [name for name in _named(config, "target_modules") if any(_is_named(one, name) for one in names)]
    if setting == "auto" and targets:
        return (
            "warning",
            f"the whole embedding ({size / 1e6:,.1f} MB) is saved with the adapter, as {', '.join(targets)} is among "
            "the target_modules.",
            "Leave it out of target_modules, or pass save_embedding_layers=False where the script saves.",
        )
    own = tensor_bytes(one for name, one in model.named_parameters() if one.requires_grad and "embed" in name)
    return "ok", "the embedding is not saved" + (f" (what trains beside it: {own / 1e6:,.3f} MB)" if own else ""), ""


def _named(config: Any, setting: str) -> list[str]:
    """The names in a setting of PEFT that may be a list, one text or nothing."""
    value = getattr(config, setting, None)
    return [value] if isinstance(value, str) else sorted(value or ())


def _is_named(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _weight_of(table: Any) -> torch.Tensor:
    return next(iter(table.parameters()))


def adapter_size(trainer: Any, sample: Sample) -> Result:
    """How many bytes an adapter takes on disk."""
    if not has_adapter(trainer.model):
        return "ok", f"a full copy of {weight_bytes(trainer.model) / 1e6:,.1f} MB a checkpoint", ""
    size = tensor_bytes(saved_tensors(trainer.model).values())
    return "ok", f"{size / 1e6:,.3f} MB a checkpoint (a full copy: {weight_bytes(trainer.model) / 1e6:,.1f} MB)", ""


def gradients(trainer: Any, sample: Sample) -> Result:
    """Does every trainable tensor get a gradient, and every row of a soft prompt?"""
    model = trainer.model
    if _is_sharded(trainer):
        return "skipped", "the model is sharded", ""
    batch = sample.need_small()
    _as_trainer_checkpoints(trainer)
    model.train()
    model.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    memory = TensorMemory(weight_tensors(model))
    with torch.enable_grad(), memory, trainer.compute_loss_context_manager():
        outputs = model(**batch)
        loss = outputs["loss"] if isinstance(outputs, dict) and "loss" in outputs else None
        loss = loss if loss is not None else _some_loss(outputs)
        sample.findings["outputs"] = {
            name: tuple(value.shape) for name, value in outputs.items() if isinstance(value, torch.Tensor)
        }
        forward = memory.peak
        if loss.requires_grad:
            loss.backward()
    memory.close()
    # What does not grow with the batch: the gradients, as far as they made the peak higher.
    sample.findings["gradients"] = min(gradient_bytes(model), memory.peak - forward)
    sample.findings["activations"] = memory.peak - sample.findings["gradients"]
    trained = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    without = [name for name, one in trained if one.grad is None]
    # Not the network of P-tuning, whose units may well be silent.
    prompts = [(name, one) for name, one in trained if "prompt" in name and name.endswith("embedding.weight")]
    dead = [f"{count} of {len(one)} rows of {name}" for name, one in prompts if (count := _dead_rows(one.grad))]
    model.zero_grad(set_to_none=True)
    if not torch.isfinite(loss):
        return "error", f"the loss of the first batch is {loss.item()}.", "Check the dtype (fp16?) and the labels."
    if without and len(without) == len(trained):
        return (
            "error",
            "no trainable tensor gets a gradient: the graph is cut, as by reentrant gradient checkpointing.",
            ("Pass --gradient_checkpointing_kwargs '{\"use_reentrant\": false}' to the script."),
        )
    if without and has_adapter(model):
        return (
            "error",
            f"{len(without)} trainable tensors get no gradient: {', '.join(without[:3])}.",
            ("They sit in layers that this input does not run through: leave those out of target_modules."),
        )
    if dead:
        return (
            "warning",
            f"{dead[0]} get no gradient, so they would never learn.",
            ("Use fewer virtual tokens; on encoder-decoder models one row a token is enough."),
        )
    more = f" ({len(without)} unused parts do not)" if without else ""
    return "ok", f"all of {len(trained)} trainable tensors get a gradient{more}; loss {loss.item():.4g}", ""


def loss_counting(trainer: Any, sample: Sample) -> Result:
    """Does the model divide its loss by the labels of all micro-batches, as Trainer expects it to?"""
    parts = trainer.args.gradient_accumulation_steps * trainer.args.world_size
    if parts == 1 or not trainer.model_accepts_loss_kwargs or _is_sharded(trainer):
        return "ok", "one batch a step, or the Trainer divides the loss itself", ""
    batch = sample.need_small()
    trainer.model.eval()
    with torch.no_grad(), trainer.compute_loss_context_manager():
        counted = trainer.model(**batch, num_items_in_batch=torch.tensor(10.0))["loss"]
        other = trainer.model(**batch, num_items_in_batch=torch.tensor(20.0))["loss"]
    if torch.equal(counted, other):
        return (
            "note",
            (
                f"this {trainer.model.config.model_type} model ignores the number of labels that Trainer passes: the "
                f"logged loss and the gradient are those of {parts} batches added up, under full tuning too."
            ),
            "Compare runs of equal gradient_accumulation_steps and processes only.",
        )
    return "ok", f"the loss is averaged over the labels of {parts} batches", ""


def output_lengths(trainer: Any, sample: Sample) -> Result:
    """Are logits as long as labels, as a script's metrics need them?"""
    batch, shapes = sample.need_small(), sample.findings.get("outputs", {})
    labels, logits = batch.get("labels"), shapes.get("logits")
    if not isinstance(labels, torch.Tensor) or labels.dim() != 2 or logits is None or len(logits) != 3:
        return "ok", "no sequence of labels to compare with", ""
    if logits[1] != labels.shape[1]:
        return (
            "warning",
            f"logits have {logits[1]} places and labels {labels.shape[1]}.",
            ("Let compute_metrics cut the logits to the labels."),
        )
    extra = extra_positions(trainer.model) if has_adapter(trainer.model) else 0
    more = f" ({extra} virtual places are cut)" if extra else ""
    return "ok", f"logits and labels have {logits[1]} places{more}", ""


def peak_memory(trainer: Any, sample: Sample) -> Result:
    """What a step takes against what is free."""
    model = trainer.model
    if "activations" not in sample.findings:
        return "skipped", "no pass was made", ""
    device = next(model.parameters()).device
    rows = next((value.shape[0] for value in sample.need_batch().values() if isinstance(value, torch.Tensor)), 1)
    scale = trainer.args.per_device_train_batch_size / max(rows, 1)
    scale *= token_count(sample.need_batch()) / token_count(sample.need_small())
    if device.type == "cuda":
        made, fixed = torch.cuda.max_memory_allocated(device) - weight_bytes(model), 0
        free, _ = torch.cuda.mem_get_info(device)
    else:
        made, fixed = sample.findings["activations"], sample.findings["gradients"]
        free = hardware.available_memory()
    # The optimiser's states come with the first step.
    need = int(max(made, 0) * scale) + fixed + _state_bytes(trainer)
    held = weight_bytes(model)
    saw = f"{(held + need) / 1e6:,.0f} MB at the peak, of which {held / 1e6:,.0f} MB are loaded already"
    if free is None:
        return "ok", f"{saw}; what is free is not known here", ""
    if need > free:
        return (
            "warning",
            f"{saw}; {free / 1e6:,.0f} MB are free.",
            ("Lower per_device_train_batch_size, pass --gradient_checkpointing, or use qlora."),
        )
    return "ok", f"{saw}; {free / 1e6:,.0f} MB are free", ""


def _some_loss(outputs: Any) -> torch.Tensor:
    """A number to differentiate where the script computes its own loss from the outputs."""
    tensors = [value for value in outputs.values() if isinstance(value, torch.Tensor) and value.requires_grad]
    return torch.stack([value.float().pow(2).mean() for value in tensors]).sum()


def _dead_rows(gradient: torch.Tensor | None) -> int:
    return int((gradient == 0).all(dim=1).sum()) if gradient is not None and gradient.dim() == 2 else 0


def _as_trainer_checkpoints(trainer: Any) -> None:
    """Switch gradient checkpointing on as ``train`` is about to do, so that what it breaks shows here."""
    args = trainer.args
    if not getattr(args, "gradient_checkpointing", False) and not getattr(args, "activation_checkpointing", False):
        return
    kwargs = getattr(args, "gradient_checkpointing_kwargs", None) or getattr(
        args, "activation_checkpointing_kwargs", None
    )
    kwargs = {key: value for key, value in (kwargs or {}).items() if key not in ("every_n_layers", "offload")}
    trainer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs or None)


def _is_sharded(trainer: Any) -> bool:
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def _state_bytes(trainer: Any) -> int:
    """Bytes that the optimiser's states will take; those of AdamW where the memory plan does not know it."""
    name = getattr(trainer.args.optim, "value", trainer.args.optim)
    try:
        optimizer = find_optimizer(name)
    except SettingError:
        optimizer = find_optimizer(DEFAULT_OPTIMIZER)
    return state_bytes(optimizer, trainer.model).states
