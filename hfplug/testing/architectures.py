"""Whether a tuning method works on an architecture, asked of a tiny model with random weights.

:func:`check_method` builds the method on a base that lies in a folder, trains it for three steps, saves it, loads it
onto a fresh base, lets both write, merges it and switches it off. What it finds wrong it returns in words; what hfplug
refuses raises its ``HfplugError``, as it does for a user.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import hfplug
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.record import Record
from hfplug.errors import HfplugError
from hfplug.methods.method import HEADS_OF_PEFT
from hfplug.models.base import auto_class, read_task_type, resolve_base
from hfplug.models.factory import applied_to
from hfplug.models.matrix_shares import matrix_shares
from hfplug.models.tryout import few_tokens, ids_of_text, labelled
from hfplug.testing.tiny_models import NEW_HEADS, TASKS, tiny_model
from hfplug.training.exporter import lock_of, save_to

# Everything that is asked is loaded before the children of a sweep are forked.
_LOADED = (hfplug.build_model, hfplug.load_adapter)
_ROWS, _LENGTH, _STEPS = 4, 16, 3
_OTHER_STARTS = 6
_HEADS = frozenset().union(*HEADS_OF_PEFT.values())
# Largest difference of two logits that count as equal: of float32, and of 4-bit layers, which unpack in other orders.
_SAME, _SAME_IN_FOUR_BITS, _SAME_MERGED = 1e-5, 1e-4, 1e-4


@dataclass
class Findings:
    """What a check found.

    Attributes:
        wrong: What is not as it should be, a short sentence each; empty if all is well.
        figures: ``trainable`` and ``saved`` numbers, ``adapted`` and ``four_bit`` shares of the matrices.
        notes: What could not be asked, and why.
    """

    wrong: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def require(self, holds: bool, otherwise: str) -> None:
        """Note what is wrong unless it holds."""
        if not holds:
            self.wrong.append(otherwise)


def save_base(model_type: str, task: str, folder: Path) -> None:
    """Write a tiny base as a user finds one: without the head, where a task has one of its own.

    Args:
        model_type: As in a ``config.json``.
        task: As of a :class:`~hfplug.testing.tiny_models.Pair`.
        folder: Where to write it.
    """
    model: Any = tiny_model(model_type, task)
    state = model.state_dict()
    body = getattr(model, model.base_model_prefix or "-", None)
    if task in NEW_HEADS and body is not None and body is not model:
        state = {name: value for name, value in state.items() if name.startswith(f"{model.base_model_prefix}.")}
    elif task in NEW_HEADS:  # T5's body lies beside its head
        state = {name: value for name, value in state.items() if name.partition(".")[0] not in _HEADS}
    model.save_pretrained(folder, state_dict=state)


def batch_of(model: Any, task: str) -> dict[str, torch.Tensor]:
    """Four rows of ids with labels, the same every time.

    Args:
        model: The base.
        task: As for :func:`save_base`.
    """
    few, words = few_tokens(model), torch.tensor(ids_of_text(model.config))
    draw = torch.Generator().manual_seed(0)
    ids = words[torch.randint(len(words), (_ROWS, _LENGTH), generator=draw)]
    ids[:, -1] = few["input_ids"][0, -1]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if task == "classification":
        return batch | {"labels": torch.arange(_ROWS) % 2}
    if task == "token_classification":
        return batch | {"labels": torch.arange(_ROWS * _LENGTH).reshape(_ROWS, _LENGTH) % 2}
    separator = getattr(model.config, "sep_token_id", None)
    if task in ("question_answering", "multiple_choice") and isinstance(separator, int):
        ids[:, [4, 5, -1]] = separator  # a question, two of these, a text and one more: Longformer counts them
    if task == "question_answering":
        return batch | {"start_positions": torch.arange(_ROWS) + 1, "end_positions": torch.arange(_ROWS) + 3}
    if task == "multiple_choice":  # two choices a row, which differ in their order
        pairs = {name: torch.stack([value, value.flip(1)], dim=1) for name, value in batch.items()}
        return pairs | {"labels": torch.arange(_ROWS) % 2}
    labels = ids[:, :8].contiguous() if model.config.is_encoder_decoder else ids
    return batch | labelled(model, labels)


def asked(batch: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """The batch without labels, with the ids that a decoder starts from if there is one beside an encoder."""
    ask = {name: value for name, value in batch.items() if name in ("input_ids", "attention_mask")}
    known = inspect.signature(model.forward).parameters
    if model.config.is_encoder_decoder and "labels" in batch and "decoder_input_ids" in known and model.can_generate():
        ask["decoder_input_ids"] = batch["input_ids"][:, :5]
    return ask


def check_base(folder: Path, task: str) -> str:
    """Why a base does not train by itself, without a method; empty if it does."""
    try:
        model = _load_base(folder, task).train()
        loss = model(**batch_of(model, task)).loss
        loss.backward()
    except Exception as error:  # a base of any kind: what it raises is the finding
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return "" if bool(torch.isfinite(loss)) else "its loss is not finite"


def check_method(folder: Path, task: str, method: str, scratch: Path) -> Findings:
    """Put a method on a base, train, save, load, generate, merge and switch it off.

    Args:
        folder: From :func:`save_base`.
        task: As for :func:`save_base`.
        method: Name of the method.
        scratch: An empty folder.

    Raises:
        HfplugError: where hfplug refuses.
    """
    found = Findings()
    torch.manual_seed(1)
    model: Any = hfplug.build_model(folder, method, task_type=task)
    applied: Any = applied_to(model)
    chosen, lock = applied.method, lock_of(model, None, task=None)
    batch = batch_of(_inner(model), task)
    ask = asked(batch, _inner(model))
    whole = chosen.category == "all weights"
    found.figures |= matrix_shares(model)
    before = None if whole else _switched_off_logits(chosen, model, ask)
    dead = _train(model, batch, found, whole=whole)
    dead = _dead_again(dead, lambda: hfplug.build_model(folder, method, task_type=task), batch)
    trained = sum(one.requires_grad for one in model.parameters())
    found.require(not dead, f"{len(dead)} of {trained} trainable tensors are dead, e.g. {dead[:1]}")
    for name in applied.anatomy.new_modules:
        tail = name.split(".")[-1]
        trained = any(tail in one and value.requires_grad for one, value in model.named_parameters())
        found.require(trained, f"the new module {name} is not trained")
    logits = _logits(model, ask)
    if task in ("token_classification", "question_answering"):
        rows = tuple(logits.shape[:2] if task == "token_classification" else logits.shape[1:])
        text = tuple(ask["input_ids"].shape)
        found.require(rows == text, f"its logits are for {rows} places and the text has {text}")
    save_to(model, scratch / "saved")
    record = Record(method=method, method_settings=chosen.settings())
    adapter = AdapterDir.write(scratch / "adapter", source=scratch / "saved", lock=lock, record=record)
    torch.manual_seed(2)
    loaded: Any = hfplug.load_adapter(adapter.path, task_type=task)
    same = _SAME if chosen.quantization() is None else _SAME_IN_FOUR_BITS
    _compare(found, "loaded again it gives other logits", logits, _logits(loaded, ask), same)
    if not whole:
        found.figures["saved"] = _saved_numbers(adapter, loaded, found)
        # What a copied layer counts for itself (a router's bias, averages) is saved with it and not trained.
        copies = (".modules_to_save.", ".ln_tuning_layers.")
        counted = sum(one.numel() for name, one in model.named_buffers() if any(part in name for part in copies))
        found.require(
            found.figures["saved"] <= found.figures["trainable"] + counted,
            f"{found.figures['saved']:.0f} numbers are saved, {found.figures['trainable']:.0f} were trained",
        )
    if task in TASKS and task != "classification":
        _check_generate(found, chosen, loaded, folder, task, batch)
    if not whole:
        # A new head is random at every load: there the trained model is asked, not the loaded one.
        off = _switched_off_logits(chosen, model if task in NEW_HEADS else loaded, ask)
        _compare(found, "switched off it is not the base", before, off, 0.0)
        _check_merge(found, chosen, loaded, logits, ask)
    return found


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _load_base(folder: Path, task: str) -> Any:
    base = resolve_base(folder)
    auto: Any = auto_class(read_task_type(base.config, task), base.config)
    return auto.from_pretrained(folder).eval()


def _train(model: Any, batch: dict[str, torch.Tensor], found: Findings, *, whole: bool) -> list[str]:
    """A few steps of AdamW; notes a loss that is not finite, and gradients where none or some should be.

    Returns:
        The trainable tensors whose gradient is zero in all steps.
    """
    trainable = {name: one for name, one in model.named_parameters() if one.requires_grad}
    others = {name: one for name, one in model.named_parameters() if not one.requires_grad}
    moved = _steps(model, batch, found)
    leaked = [name for name, one in others.items() if one.grad is not None]
    found.require(not leaked, f"{len(leaked)} frozen tensors get a gradient, e.g. {leaked[:1]}")
    if whole:
        return []
    without = [name for name in trainable if name not in moved]
    found.require(
        not without, f"{len(without)} of {len(trainable)} trainable tensors get no gradient, e.g. {without[:1]}"
    )
    for name, total in moved.items():
        if "prompt_encoder" in name and name.endswith("embedding.weight"):
            rows = int((total.flatten(1).sum(dim=1) == 0).sum())
            found.require(rows == 0, f"{rows} of {total.shape[0]} prompt rows are dead")
            numbers = float((total == 0).float().mean())
            # A prefix may have up to one layer too many laid out (hfplug.methods.prefix_tuning, models.prefix_layout).
            layers = getattr(model.active_peft_config, "num_layers", 1)
            spare = 1.01 / layers if model.active_peft_config.peft_type == "PREFIX_TUNING" else 0.02
            found.require(numbers < spare, f"{numbers:.0%} of the prompt's numbers get no gradient")
    # One number that is added to the scores of all choices changes none of their shares, so it learns nothing.
    cancels = 1 if any(name == "input_ids" and value.dim() == 3 for name, value in batch.items()) else 0
    return [name for name, total in moved.items() if not bool(total.any()) and total.numel() != cancels]


def _steps(model: Any, batch: dict[str, torch.Tensor], found: Findings) -> dict[str, torch.Tensor]:
    """A few steps of AdamW; of each trainable tensor that a gradient reaches, the sum of its sizes."""
    model.train()
    trainable = {name: one for name, one in model.named_parameters() if one.requires_grad}
    moved: dict[str, torch.Tensor] = {}
    optimizer = torch.optim.AdamW(list(trainable.values()), lr=1e-2, weight_decay=0.0)
    for _ in range(_STEPS):
        loss = model(**batch).loss
        loss.backward()
        found.require(bool(torch.isfinite(loss)), "the loss is not finite")
        for name, one in trainable.items():
            if one.grad is not None:
                moved[name] = moved.get(name, torch.zeros_like(one)) + one.grad.abs()
        optimizer.step()
        optimizer.zero_grad()
    return moved


def _dead_again(dead: list[str], build: Callable[[], Any], batch: dict[str, torch.Tensor]) -> list[str]:
    """Of tensors whose gradient is zero those where it is so from every start.

    A bottleneck of a tiny model has two units, and both may be off for the few tokens that a classifier looks at: then
    all before them learns nothing, from this start. What no gradient can reach is dead from all.
    """
    for seed in range(_OTHER_STARTS) if dead else ():
        torch.manual_seed(100 + seed)
        moved = _steps(build(), batch, Findings())
        dead = [name for name in dead if name not in moved or not bool(moved[name].any())]
        if not dead:
            break
    return dead


def _logits(model: Any, ask: dict[str, torch.Tensor]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        output = model(**ask)
    found = [value for name, value in output.items() if name.endswith("logits")]  # of a start and an end, both
    return found[0] if len(found) == 1 else torch.stack(found)


def _switched_off_logits(method: Any, model: Any, ask: dict[str, torch.Tensor]) -> torch.Tensor:
    model.eval()
    with method.switched_off(model) as plain:
        return _logits(plain, ask)


def _compare(found: Findings, otherwise: str, first: Any, second: torch.Tensor, allowed: float) -> None:
    if first.shape != second.shape:
        found.wrong.append(f"{otherwise}: their shapes are {tuple(first.shape)} and {tuple(second.shape)}")
        return
    far = float((first.float() - second.float()).abs().max())
    scale = max(1.0, float(first.float().abs().max()))
    found.require(far <= allowed * scale, f"{otherwise}: they differ by {far:.2g}")


def _saved_numbers(adapter: AdapterDir, loaded: Any, found: Findings) -> int:
    """How many numbers the adapter's file holds; notes those that are not in the loaded model as they were saved."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    saved = {name: value for file in adapter.weights for name, value in load_file(file).items()}
    held = get_peft_model_state_dict(loaded, save_embedding_layers=False)
    lost = [
        name for name, value in saved.items() if name not in held or not torch.equal(held[name].to(value.dtype), value)
    ]
    found.require(not lost, f"{len(lost)} of {len(saved)} saved tensors are not in the loaded model, e.g. {lost[:1]}")
    # An embedding that PEFT does not know to be one for encoder and decoder is in the file for both, or plain PEFT
    # would leave one of them as it was.
    distinct: list[torch.Tensor] = []
    for name, value in saved.items():
        again = ".token_adapter." in name and any(
            torch.equal(value, one) for one in distinct if one.shape == value.shape
        )
        distinct += [] if again else [value]
    return sum(value.numel() for value in distinct)


def _check_generate(
    found: Findings, method: Any, loaded: Any, folder: Path, task: str, batch: dict[str, torch.Tensor]
) -> None:
    words = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "num_beams": 1}
    ids, mask = batch["input_ids"][:2], batch["attention_mask"][:2]
    base = _load_base(folder, task)
    try:
        plain = base.generate(input_ids=ids, attention_mask=mask, **words)
    except Exception as error:  # a base of any kind
        found.notes.append(f"the base itself does not generate: {type(error).__name__}: {str(error)[:80]}")
        return
    caller, inputs = method.generation_inputs(loaded, ids, mask)
    written = caller.generate(**inputs, **words)
    found.require(bool(written.shape[1] >= 3), "it writes nothing")
    if method.category == "all weights":
        return
    with method.switched_off(loaded) as off:
        again = off.generate(input_ids=ids, attention_mask=mask, **words)
        if method.quantization() is None:
            found.require(torch.equal(plain, again), "switched off it writes other tokens than the base")
            ask = asked(batch, base)
            _compare(
                found, "switched off it is not the base that was loaded", _logits(base, ask), _logits(off, ask), 0.0
            )


def _check_merge(found: Findings, method: Any, loaded: Any, logits: torch.Tensor, ask: dict[str, torch.Tensor]) -> None:
    if method.merging != "exact" or method.quantization() is not None:
        return
    try:
        merged = loaded.merge_and_unload()
    except (HfplugError, NotImplementedError) as error:  # the second is PEFT's, of convolutions in groups
        found.notes.append(f"not merged: {error}")
        return
    _compare(found, "merged it gives other logits", logits, _logits(merged, ask), _SAME_MERGED)


def as_line(found: Findings) -> dict[str, Any]:
    """The findings as JSON."""
    return dataclasses.asdict(found)
