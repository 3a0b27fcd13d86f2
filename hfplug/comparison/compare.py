"""Adapters that exist, side by side: the table, intervals, tests, plots and pages of a study, without training.

Each adapter is loaded onto a fresh base, checked against its lock and asked its probe's questions, and then asked every
row. As in a study each column leaves a file when it is done, so that a comparison that was killed goes on where it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.load import find_tokenizer, load_adapter
from hfplug.adapters.lock import verify
from hfplug.adapters.probe import compare_probe
from hfplug.comparison.compare_inputs import Column, CompareInputs, prepare_comparison, refusal
from hfplug.comparison.compare_settings import CompareSettings
from hfplug.comparison.finish import finish, fully_tuned
from hfplug.comparison.progress import Progress
from hfplug.comparison.record_figures import figures_of
from hfplug.comparison.study_base import (
    BaseState,
    ask,
    base_figures,
    generation_figures,
    let_go,
    read_base,
    score_base,
    switched_off_equals_base,
)
from hfplug.comparison.study_folder import read_variant, write_predictions, write_variant
from hfplug.comparison.variants import Report, Variant
from hfplug.errors import HfplugError, MismatchError
from hfplug.methods import TuningMethod
from hfplug.models.factory import applied_to

_NOTE_FIX = "Pass the base that it was made on with --base, or --on-mismatch note to score it all the same. "


def compare_adapters(settings: CompareSettings, *, progress: Progress | None = None) -> Report:
    """Score adapters that exist beside their untouched base, or go on with a comparison that was stopped.

    Args:
        settings: What to compare, on what.
        progress: Where to show what is happening; nothing is shown by default.

    Returns:
        The report, which is also written to ``settings.out`` as JSON, CSV, Markdown and HTML.

    Raises:
        HfplugError: if an adapter, the base or the data cannot be used; it says what to type.
    """
    progress = progress or Progress("nothing")
    inputs = prepare_comparison(settings)
    progress.say(
        f"{inputs.task.name}: {len(inputs.columns)} adapters on {len(inputs.evaluation)} rows, base {inputs.base.name}"
    )
    before = read_base(inputs)
    variants = [score_base(inputs, before, progress)]
    before = let_go(before)
    variants += [_score(inputs, column, before, progress) for column in inputs.columns]
    after = read_base(inputs, keep="nothing")
    scored = _with_notes_on_tests(variants)
    folders = {column.name: column.adapter.path for column in inputs.columns}
    report, _ = finish(inputs, before, after, scored, _shown_settings(inputs), progress, folders)
    return report


def _shown_settings(inputs: CompareInputs) -> dict[str, Any]:
    return {
        "variants": {column.name: column.source for column in inputs.columns},
        "on_mismatch": inputs.settings.on_mismatch,
        "eval_batch_size": inputs.eval_batch_size,
        "seed": inputs.seed,
        "dtype": inputs.dtype,
    }


def _with_notes_on_tests(variants: list[Variant]) -> list[Variant]:
    """The columns; where it is not plain which one the others are tested against as full tuning, it is said."""
    full = [variant for variant in variants if variant.kind == "full"]
    against = fully_tuned(variants)
    if len(full) < 2:
        return variants
    said = f"the tests against full tuning are against {against!r}"
    if against not in [variant.name for variant in full]:
        said = "none of them is called 'full', so there is no test against full tuning"
    note = f"There are {len(full)} fully tuned variants: {said}."
    return [
        dataclasses.replace(variant, notes=(*variant.notes, note)) if variant.kind == "full" else variant
        for variant in variants
    ]


# ------------------------------------------------------------------------------------------------ one column


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """An adapter on its base, ready to be asked.

    Attributes:
        model: The model.
        method: What was put onto it.
        tokenizer: Its own, or the base's.
        notes: What was found when it was compared with its lock and its probe.
    """

    model: nn.Module
    method: TuningMethod
    tokenizer: Any
    notes: tuple[str, ...]


def _score(inputs: CompareInputs, column: Column, base: BaseState, progress: Progress) -> Variant:
    """Load an adapter and ask it every row, unless that was done before."""
    done = read_variant(inputs.folder, column.name)
    if done is not None:
        progress.say(f"{column.name}: answers are there already")
        return done
    progress.say(f"{column.name}: {column.source}")
    try:
        loaded = _load(inputs, column)
        generation = ask(inputs, loaded.model, loaded.method, progress, column.name, tokenizer=loaded.tokenizer)
        switched_off = switched_off_equals_base(inputs, loaded.method, loaded.model, base)
    except MismatchError as error:
        raise refusal(column.name, error, fix=_NOTE_FIX) from error
    except HfplugError as error:
        raise refusal(column.name, error) from error
    write_predictions(inputs.folder.predictions(column.name), inputs.evaluation, generation.texts)
    record = column.adapter.record
    variant = Variant(
        name=column.name,
        kind="full" if column.adapter.kind == "full" else "adapter",
        method=loaded.method.name,
        method_settings=dict(record.all_method_settings) if record else loaded.method.settings(),
        switched_off_equals_base=switched_off,
        notes=(*column.notes, *loaded.notes, _origin_of_figures(column.adapter)),
        **{**base_figures(base), **figures_of(column.adapter)},
        **generation_figures(column.name, generation),
    )
    write_variant(inputs.folder, variant)
    return variant


def _origin_of_figures(adapter: AdapterDir) -> str:
    record = adapter.record
    if record is None:
        return "It has no record, so what its training cost is not known."
    return (
        f"What its training cost is from its own record ({record.created[:10]}, hfplug {record.hfplug_version}), "
        "perhaps of another machine; what its answers cost was measured here."
    )


def _load(inputs: CompareInputs, column: Column) -> _Loaded:
    """The adapter on its base, checked as far as its files allow.

    Raises:
        MismatchError: It does not fit, and ``on_mismatch`` is ``"refuse"``, or it cannot be loaded at all.
        HfplugError: Its files are damaged, or something that it needs is not installed.
    """
    adapter, notes = column.adapter, []
    places: dict[str, Any] = {"dtype": inputs.dtype}
    if adapter.kind != "full":
        places |= {"base": inputs.base.name, "revision": inputs.base.revision}
    try:
        model = load_adapter(adapter.path, **places)
        _check_kin(inputs, column, model)
    except MismatchError as error:
        if inputs.settings.on_mismatch == "refuse":
            raise
        notes.append(f"Scored although it does not fit: {error.message}")
        model = load_adapter(adapter.path, verify="off", **places)
    tokenizer = find_tokenizer(adapter, None, offline="on") or inputs.tokenizer
    notes += [str(text) for text in _small_differences(inputs, adapter, model, tokenizer)] if not notes else []
    notes.append(_probe_note(adapter, model, tokenizer, inputs.settings.on_mismatch))
    applied = applied_to(model)
    assert applied is not None  # load_adapter remembers it
    return _Loaded(model=model, method=applied.method, tokenizer=tokenizer, notes=tuple(notes))


def _check_kin(inputs: CompareInputs, column: Column, model: nn.Module) -> None:
    """Refuse a fully tuned model of another base: its lock holds its own weights, and nothing else would notice."""
    if column.adapter.kind != "full":
        return
    sizes = ("model_type", "is_encoder_decoder", "hidden_size", "num_hidden_layers", "num_attention_heads")
    for size in sizes:
        own, bases = (getattr(config, size, None) for config in (model.config, inputs.base.config))
        if own != bases:
            raise MismatchError(
                f"This is no fully tuned version of the base {inputs.base.name!r}: its {size} is {own!r}, the base's"
                f" {bases!r}."
            )


def _small_differences(inputs: CompareInputs, adapter: AdapterDir, model: nn.Module, tokenizer: Any) -> Iterator[str]:
    """What differs from the lock and was let pass: number formats, versions, the base's commit."""
    if adapter.lock is None:
        yield "It has no lock, so whether this is its base could not be checked; every tensor has its place."
        return
    commit = inputs.base.commit if adapter.kind != "full" else None
    for text in verify(adapter.lock, model, tokenizer, task=adapter.task, base_commit=commit):
        if getattr(text, "kind", "base") == "numerics":
            yield text


def _probe_note(adapter: AdapterDir, model: nn.Module, tokenizer: Any, on_mismatch: str) -> str:
    """What came of the probe, in words.

    Raises:
        MismatchError: The answers are others than its author saw, and that is not merely to be noted.
    """
    probe = adapter.lock.probe if adapter.lock else None
    if not probe:
        return "It has no probe, so whether it answers as it did for its author could not be checked."
    result = compare_probe(probe, model, tokenizer, adapter_dtype=adapter.weight_dtype)
    if result.verdict == "same":
        return f"Probe: it answers as it did for its author; {result}."
    if on_mismatch == "refuse":
        raise MismatchError(f"It does not answer as it did for its author: {result}.")
    return f"Probe: it does NOT answer as it did for its author; {result}."
