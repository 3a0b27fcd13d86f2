"""Preflight checks of settings: each returns a verdict, what it saw and what to do."""

from __future__ import annotations

from typing import Any

import torch

from hfplug.models import hardware
from hfplug.models.quantize import describe_quantization
from hfplug.training.guard import learning_rate_warning, refuse_sharded_prompt
from hfplug.training.preflight_sample import Sample

Result = tuple[str, str, str]


def learning_rate(trainer: Any, sample: Sample) -> Result:
    """Is the rate one that suits the method?"""
    warning = learning_rate_warning(trainer.model, trainer.args.learning_rate)
    if warning is None:
        return "ok", f"learning_rate={trainer.args.learning_rate:g}", ""
    saw, _, advice = warning.partition("; use ")
    # The guard says it too, when training begins.
    return "note", f"{saw}.", f"Use {advice} Or pass --learning_rate auto to hfplug run."


def half_precision(trainer: Any, sample: Sample) -> Result:
    """T5 overflows in float16."""
    model_type = getattr(trainer.model.config, "model_type", "")
    # accelerate's own setting holds where the script has none.
    mixed = trainer.accelerator.mixed_precision
    fp16 = trainer.args.fp16 or mixed == "fp16"
    halves = fp16 or trainer.args.fp16_full_eval or getattr(trainer.model, "dtype", None) is torch.float16
    if halves and hardware.overflows_in_float16(model_type):
        return (
            "error",
            f"a {model_type} model would run in float16, where its activations overflow.",
            ("Pass --bf16 instead of --fp16, or neither, and load the model in float32 or bfloat16."),
        )
    shown = "fp16" if fp16 else "bf16" if trainer.args.bf16 or mixed == "bf16" else "no mixed precision"
    return "ok", f"{shown}, weights in {str(getattr(trainer.model, 'dtype', '?')).removeprefix('torch.')}", ""


def four_bit_arithmetic(trainer: Any, sample: Sample) -> Result:
    """Does this hardware multiply fast in the dtype that the 4-bit layers use?"""
    recipe = describe_quantization(trainer.model)
    if recipe is None or not recipe.get("load_in_4bit"):
        return "ok", "the base is not in 4 bits", ""
    used = str(recipe.get("bnb_4bit_compute_dtype", "")).removeprefix("torch.")
    advised = str(hardware.compute_dtype(trainer.model.config.model_type)).removeprefix("torch.")
    if used == advised:
        return "ok", f"4-bit layers multiply in {used}", ""
    return (
        "warning",
        f"4-bit layers multiply in {used}, which is slow or coarse here.",
        (f"Pass bnb_4bit_compute_dtype={advised}, or leave it to --method qlora."),
    )


def sharding(trainer: Any, sample: Sample) -> Result:
    """Combinations that write empty adapters or refuse 4 bits."""
    args = trainer.args
    stage = _zero_stage(trainer)
    kind = "ZeRO-3" if stage == 3 else _fsdp(trainer)
    if not kind:
        world = f"{args.world_size} processes" if args.world_size > 1 else "one process"
        if hardware.is_sharded_run() or args.fsdp:
            return (
                "warning",
                f"FSDP was asked for and is not on: accelerate shards over accelerators only, and here are {world} "
                "on the CPU, each with the whole model.",
                "Leave FSDP out of the configuration, or run where there are GPUs.",
            )
        return "ok", f"{world}, nothing is sharded", ""
    refuse_sharded_prompt(trainer.model, kind)
    recipe = describe_quantization(trainer.model)
    if recipe is not None and recipe.get("load_in_4bit"):
        storage = str(recipe.get("bnb_4bit_quant_storage", "uint8")).removeprefix("torch.")
        if storage == "uint8":
            return (
                "error",
                f"{kind} shards tensors of one dtype, and the packed 4-bit weights are held as uint8.",
                "Pass --qlora_storage_dtype bfloat16 (and load the rest in bfloat16).",
            )
    if stage == 3 and not _gathers(trainer):
        return (
            "error",
            "under ZeRO-3 each process holds a part of the adapter, and an adapter saved from parts is empty.",
            "Set zero3_save_16bit_model: true (stage3_gather_16bit_weights_on_model_save) in the configuration.",
        )
    if kind != "ZeRO-3" and "FULL" not in str(trainer.accelerator.state.fsdp_plugin.state_dict_type):
        return (
            "warning",
            f"{kind} saves its checkpoints in parts: they hold no adapter, and only the end of training leaves one.",
            "Set fsdp_state_dict_type: FULL_STATE_DICT in the configuration.",
        )
    return "note", f"{kind} is on; this has not been run by the authors of hfplug on several GPUs.", ""


def checkpoints(trainer: Any, sample: Sample) -> Result:
    """Is anything on disk before training ends?"""
    strategy = str(getattr(trainer.args.save_strategy, "value", trainer.args.save_strategy))
    if strategy == "no":
        return "note", "save_strategy='no': a run that is killed is lost.", "Pass --save_strategy steps or epoch."
    return "ok", f"save_strategy={strategy!r}", ""


def _fsdp(trainer: Any) -> str:
    """``"FSDP"``, ``"FSDP2"``, or an empty text where it is not on."""
    if not trainer.is_fsdp_enabled or str(trainer.accelerator.distributed_type).rpartition(".")[2] != "FSDP":
        return ""
    return "FSDP2" if getattr(trainer.accelerator.state.fsdp_plugin, "fsdp_version", 1) == 2 else "FSDP"


def _zero_stage(trainer: Any) -> int | None:
    """DeepSpeed's stage, or None without DeepSpeed."""
    if not trainer.is_deepspeed_enabled:
        return None
    from transformers.integrations import is_deepspeed_zero3_enabled

    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    return 3 if is_deepspeed_zero3_enabled() or getattr(plugin, "zero_stage", None) == 3 else 2


def _gathers(trainer: Any) -> bool:
    """Whether DeepSpeed gathers the parts when it saves."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    config = getattr(plugin, "deepspeed_config", None) or {}
    stated = config.get("zero_optimization", {}).get("stage3_gather_16bit_weights_on_model_save")
    return bool(getattr(plugin, "zero3_save_16bit_model", False) if stated in (None, "auto") else stated)
