"""One method of a study: trained, read back from disk, asked."""

from __future__ import annotations

import time
from typing import Any

from torch import nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.load import load_adapter
from hfplug.comparison.answer_trainer import AnswerTrainer
from hfplug.comparison.progress import Progress, ProgressCallback
from hfplug.comparison.study_base import (
    BaseState,
    ask,
    base_figures,
    generation_figures,
    switched_off_equals_base,
)
from hfplug.comparison.study_folder import read_variant, write_predictions, write_variant
from hfplug.comparison.study_inputs import StudyInputs
from hfplug.comparison.study_memory import predict_peak
from hfplug.comparison.variants import TrainingMemory, Variant
from hfplug.errors import StudyError
from hfplug.methods import TuningMethod
from hfplug.methods.defaults import chosen_words
from hfplug.models import hardware
from hfplug.models.anatomy import count_parameters
from hfplug.models.factory import applied_to, build_model
from hfplug.training.callbacks import adapter_callbacks
from hfplug.training.checkpoints import last_whole_checkpoint
from hfplug.training.collate import make_collator
from hfplug.training.meter import RunFigures

CHECKPOINTS = 4


def run_method(inputs: StudyInputs, method: TuningMethod, base: BaseState, progress: Progress) -> Variant:
    """Train a method, read its adapter back from disk and ask it every row, unless that was done before.

    Args:
        inputs: What the study shares.
        method: The method.
        base: The untouched base.
        progress: Where to show it.
    """
    name = method.name
    done = read_variant(inputs.folder, name)
    if done is not None and (inputs.folder.path / (done.adapter_path or name)).is_dir():
        progress.say(f"{name}: trained and answered already")
        return done
    figures = _train(inputs, method.with_task_text(inputs.settings.task.instruction), progress)
    # What is scored is what is on disk, as whoever downloads it will load it.
    model = load_adapter(inputs.folder.adapter(name), base=inputs.base.name, revision=inputs.base.revision)
    applied = applied_to(model)
    generation = ask(inputs, model, applied.method if applied else method, progress, name)
    write_predictions(inputs.folder.predictions(name), inputs.evaluation, generation.texts)
    variant = Variant(
        name=name,
        kind="full" if inputs.folder.adapter(name).joinpath("config.json").is_file() else "adapter",
        method=name,
        method_settings=method.settings(),
        adapter_path=f"adapters/{name}",
        switched_off_equals_base=switched_off_equals_base(inputs, method, model, base),
        **{**base_figures(base), **figures},
        **generation_figures(name, generation),
    )
    write_variant(inputs.folder, variant)
    return variant


def _train(inputs: StudyInputs, method: TuningMethod, progress: Progress) -> dict[str, Any]:
    """Train, or go on from the last whole checkpoint, and return what it cost as fields of a variant."""
    settings, name = inputs.settings, method.name
    from transformers import set_seed

    set_seed(settings.seed)  # the initialisation of the adapter
    model = build_model(inputs.base.name, method, revision=inputs.base.revision, dtype=settings.dtype)
    applied = applied_to(model)
    assert applied is not None
    rate = settings.learning_rates.get(name) or method.learning_rate(applied.anatomy).value
    trainable = count_parameters(model, trainable="only")
    progress.say(
        f"{name}: {trainable:,} of {applied.anatomy.parameters:,} parameters train "
        f"({trainable / applied.anatomy.parameters:.2%}), learning rate {rate:g}"
        + (f", {chosen_words(method)}" if method.chosen else "")
    )
    run_figures = RunFigures()
    trainer, arguments = _trainer(inputs, method, model, rate, run_figures, progress)
    run_figures.predicted_peak_bytes = predict_peak(inputs, method, trainer)
    checkpoint = last_whole_checkpoint(arguments.output_dir)
    if checkpoint is not None:
        progress.say(f"{name}: goes on from {checkpoint.name}")
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    seconds = time.perf_counter() - began
    progress.say(f"{name}: {trainer.state.global_step} steps in {seconds:.1f} s")
    return _figures(inputs, name, trainer, run_figures, rate, trainable, seconds)


def _trainer(
    inputs: StudyInputs,
    method: TuningMethod,
    model: nn.Module,
    rate: float,
    figures: RunFigures,
    progress: Progress,
) -> tuple[AnswerTrainer, Any]:
    from transformers import PrinterCallback, TrainingArguments

    settings = inputs.settings
    preprocessor = inputs.preprocessor(reserve=method.virtual_tokens())
    train, report = preprocessor.encode_dataset(inputs.train)
    if report.truncated_inputs or report.truncated_targets:
        progress.say(
            f"{method.name}: {report.truncated_inputs} of {report.rows} dialogues and {report.truncated_targets} "
            f"targets are longer than {preprocessor.max_input_tokens} and {preprocessor.max_target_tokens} tokens "
            "and were cut"
        )
    evaluation, _ = preprocessor.encode_dataset(inputs.evaluation[: settings.eval_loss_rows])
    per_step = settings.batch_size * settings.gradient_accumulation_steps
    steps = settings.max_steps or max(1, round(settings.epochs * -(-len(inputs.train) // per_step)))
    every = max(1, steps // CHECKPOINTS)
    arguments = TrainingArguments(
        output_dir=str(inputs.folder.run(method.name)),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.eval_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        learning_rate=rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=int(settings.warmup_ratio * steps),
        eval_strategy="steps",
        eval_steps=every,
        prediction_loss_only=True,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        logging_steps=max(1, steps // 40),
        logging_first_step=True,
        seed=settings.seed,
        data_seed=settings.seed,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=hardware.has_accelerator(),
        **({"gradient_checkpointing": True} if settings.gradient_checkpointing == "on" else {}),
    )
    trainer = AnswerTrainer(
        model=model,
        args=arguments,
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=make_collator(inputs.tokenizer),
        processing_class=inputs.tokenizer,
        callbacks=[
            *adapter_callbacks(
                inputs.folder.adapter(method.name),
                task=settings.task,
                data=inputs.data.to_json(),
                figures=figures,
            ),
            ProgressCallback(progress, f"{method.name}: training"),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, arguments


def _figures(
    inputs: StudyInputs,
    name: str,
    trainer: AnswerTrainer,
    figures: RunFigures,
    rate: float,
    trainable: int,
    seconds: float,
) -> dict[str, Any]:
    adapter = AdapterDir.open(inputs.folder.adapter(name))
    record = adapter.record
    if record is None:
        raise StudyError(f"The adapter in {str(adapter.path)!r} has no record.", fix="Delete it and run again.")
    memory = figures.training_memory
    total = record.parameter_efficiency["total_parameters"]
    return {
        "trainable_parameters": trainable,
        "trainable_share": trainable / total,
        "adapter_bytes": adapter.weight_bytes,
        "peak_training_bytes": figures.peak_training_bytes,
        "predicted_peak_bytes": figures.predicted_peak_bytes,
        "training_memory": TrainingMemory(**memory) if memory else None,
        "process_peak_bytes": figures.process_peak_bytes,
        "seconds_per_step": figures.seconds_per_step,
        "real_tokens_per_second": figures.real_tokens_per_second,
        "padding_share": figures.padding_share,
        "training_seconds": seconds,
        "steps": trainer.state.global_step,
        "learning_rate": rate,
        "warmup_steps_skipped": figures.warmup_steps_skipped,
        "loss_curve": record.loss_curve,
        "eval_loss_curve": record.eval_loss_curve,
    }
