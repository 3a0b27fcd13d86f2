"""A memory plan as text and as JSON values."""

from __future__ import annotations

import dataclasses
from typing import Any

from hfplug.models.memory_devices import USABLE
from hfplug.models.memory_method import TERMS, MethodMemory
from hfplug.models.memory_optimizers import find_optimizer
from hfplug.models.memory_plan import MemoryPlan

PARTS = tuple(TERMS)
_HEADINGS = ("weights", "gradients", "states", "activations", "temporary")
_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def plan_json(plan: MemoryPlan, tasks: int) -> dict[str, Any]:
    """The plan as JSON values; bytes are bytes.

    Args:
        plan: The plan.
        tasks: For how many tasks the whole is given.
    """
    values = dataclasses.asdict(plan)
    values["methods"] = [{**dataclasses.asdict(one), "peak": one.peak} for one in plan.methods]
    if plan.device is not None:
        values["device"]["usable"] = plan.device.usable
    values["formula"] = dict(TERMS)
    values["optimizer_states"] = dataclasses.asdict(_optimizer_words(plan))
    values["tasks"] = {"count": tasks, "bytes": plan.for_tasks(tasks)}
    return values


def render_plan(plan: MemoryPlan, tasks: int) -> str:
    """The plan for people: what each method takes, the formula term by term, and the whole for some tasks.

    Args:
        plan: The plan.
        tasks: For how many tasks the whole is given.
    """
    settings = plan.settings
    lengths = f"{settings.length} tokens"
    if plan.task_type == "SEQ_2_SEQ_LM":
        lengths += f" in and {settings.target_length} out"
    lines = [
        f"{plan.base}: {plan.model_type}, {plan.parameters:,} parameters, a copy is {show_bytes(plan.full_copy_bytes)}",
        f"a step of {settings.batch} x {lengths}, {settings.optimizer}, gradient checkpointing {settings.checkpointing}"
        f", weights in {settings.dtype} dtype, {settings.accumulation} batch(es) a step",
    ]
    if plan.device is not None:
        lines.append(
            f"device: {plan.device.name}, {show_bytes(plan.device.bytes)} ({plan.device.source}), "
            f"{USABLE:.0%} of it for tensors"
        )
    lines += ["", *_columns(_rows(plan))]
    lines += [f"{name}: {why}" for name, why in plan.refused.items()]
    lines += ["", *_formula(plan), "", *_tasks(plan, tasks)]
    return "\n".join(lines)


def show_bytes(count: int) -> str:
    """Bytes in the unit that fits, with three figures."""
    for size, unit in _UNITS:
        if count >= size:
            value = count / size
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return f"{count} B"


def _rows(plan: MemoryPlan) -> list[tuple[str, ...]]:
    probed = any(one.measured_peak is not None for one in plan.methods)
    heading: tuple[str, ...] = ("method", *_HEADINGS, "peak", "trained", "saved")
    heading += ("largest batch",) if plan.device is not None else ()
    heading += ("predicted",) if probed else ()
    rows = [heading]
    for one in plan.methods:
        row: tuple[str, ...] = (one.method, *(show_bytes(getattr(one, part)) for part in PARTS), show_bytes(one.peak))
        row += (f"{one.trainable_parameters:,}", show_bytes(one.adapter_bytes))
        row += (_batch(one),) if plan.device is not None else ()
        if probed:
            row += (_predicted(one),)
        rows.append(row)
    return rows


def _batch(one: MethodMemory) -> str:
    if not one.largest_batch:
        return "does not fit"
    return f"{one.largest_batch:,}" + ("" if one.fits else " (asked for more)")


def _predicted(one: MethodMemory) -> str:
    if one.measured_peak is None or one.predicted_peak is None:
        return "–"
    off = one.predicted_peak / one.measured_peak - 1
    return f"{show_bytes(one.predicted_peak)} ({off:+.1%})"


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    shown = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        shown.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    return [shown[0], "  ".join("─" * width for width in widths), *shown[1:]]


def _formula(plan: MemoryPlan) -> list[str]:
    lines = ["peak = weights + gradients + states + activations + temporary, in bytes; a MB is 1,000,000"]
    for heading, part in zip(_HEADINGS, PARTS, strict=True):
        lines.append(f"  {heading}: {TERMS[part]}")
    used = _optimizer_words(plan)
    lines.append(f"  states of {used.name}: {used.rule} ({used.source})")
    everything = [one for one in plan.methods if one.trainable_parameters == one.parameters]
    for one in everything:
        each = [getattr(one, part) / one.parameters for part in PARTS]
        terms = " + ".join(f"{value:.1f}" for value in each)
        lines.append(
            f"  {one.method}, in bytes a parameter: {terms} = {sum(each):.1f}, which is {sum(each) / 2:.1f} times a "
            "16-bit copy"
        )
    if any(one.paged_states for one in plan.methods):
        lines.append("  paged states are not in the peak: " + ", ".join(
            f"{one.method} {show_bytes(one.paged_states)}" for one in plan.methods))  # fmt: skip
    return lines


def _optimizer_words(plan: MemoryPlan) -> Any:
    found = find_optimizer(plan.settings.optimizer)
    return dataclasses.replace(found, make=None)


def _tasks(plan: MemoryPlan, tasks: int) -> list[str]:
    whole = plan.for_tasks(tasks)
    if not whole:
        return []
    rows: list[tuple[str, ...]] = [
        ("method", f"{tasks} full copies", f"one base and {tasks} adapters", "times smaller")
    ]
    for name, size in whole.items():
        both = size["full_copies"], size["base_and_adapters"]
        rows.append((name, show_bytes(both[0]), show_bytes(both[1]), f"{both[0] / both[1]:.1f}"))
    return [f"On disk, for {tasks} tasks:", *_columns(rows)]
