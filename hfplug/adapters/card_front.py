"""The front matter of a card: what the Hub reads, indexes and searches.

Found with ``list_models(filter=...)``: ``"hfplug"`` for every adapter of ours, ``method_tag("lora")`` and
``task_tag("summary")`` for one method and one task; the bases by the Hub's own ``base_model:adapter:<id>``, which
it makes from ``base_model`` and ``base_model_relation``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hfplug.adapters.record import Record

if TYPE_CHECKING:
    from hfplug.adapters.adapter_dir import AdapterDir

OURS = "hfplug"

# PEFT's task type to the class of transformers that loads the base, and to the Hub's pipeline tag.
_AUTO_CLASSES = {
    "SEQ_2_SEQ_LM": ("AutoModelForSeq2SeqLM", "text-generation"),
    "CAUSAL_LM": ("AutoModelForCausalLM", "text-generation"),
    "SEQ_CLS": ("AutoModelForSequenceClassification", "text-classification"),
    "TOKEN_CLS": ("AutoModelForTokenClassification", "token-classification"),
    "QUESTION_ANS": ("AutoModelForQuestionAnswering", "question-answering"),
    "MASKED_LM": ("AutoModelForMaskedLM", "fill-mask"),
    "MULTIPLE_CHOICE": ("AutoModelForMultipleChoice", "multiple-choice"),
    "FEATURE_EXTRACTION": ("AutoModel", "feature-extraction"),
}
_CLASS_ENDINGS = {
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForMaskedLM": "MASKED_LM",
    "ForMultipleChoice": "MULTIPLE_CHOICE",
}
_METRIC_TYPES = {"rouge": "rouge", "loss": "loss", "accuracy": "accuracy", "f1": "f1", "bleu": "bleu"}
_BOOKKEEPING = re.compile(r"(.*_)?(runtime|samples_per_second|steps_per_second|epoch|step|flos)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DATA_FILES = frozenset({".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".gz"})


def method_tag(method: str) -> str:
    """The tag of every adapter made with a method, e.g. ``"method:prompt_tuning"``."""
    return f"method:{_word(method)}"


def task_tag(task: str) -> str:
    """The tag of every adapter that was taught a task, e.g. ``"task:summary"``."""
    return f"task:{_word(task)}"


def _word(name: str) -> str:
    return "-".join(name.lower().split())


def is_hub_id(name: str | None, commit: str | None = None) -> bool:
    """Whether ``name`` is a model's or a data set's id on the Hub, and no path on this machine.

    Args:
        name: Repo id or path.
        commit: Its commit or branch, if known. A folder has no commit: with one, a path of the same name counts for
            nothing.
    """
    known = isinstance(commit, str) and _COMMIT.fullmatch(commit) is not None
    return has_form_of_id(name) and (known or not Path(str(name)).exists())


def has_form_of_id(name: str | None) -> bool:
    """Whether ``name`` can be an id on the Hub, whatever there is on this machine."""
    if not name or name.startswith((".", "/", "~")) or "\\" in name:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def method_name(adapter: AdapterDir) -> str:
    """The method: from the record, else PEFT's own name for it."""
    return adapter.record.method if adapter.record else str(adapter.config.get("peft_type") or "full").lower()


def task_name(adapter: AdapterDir) -> str | None:
    """The task, from ``hfplug_task.json``, else from the record."""
    return adapter.task.name if adapter.task else adapter.record.task if adapter.record else None


def front_matter(
    adapter: AdapterDir, name: str, *, base: str | None, licence: str | None, language: str | Sequence[str] | None
) -> ModelCardData:
    """What stands between the two lines of dashes.

    Args:
        adapter: Read, as far as it says something.
        name: Of the adapter, for the table of results.
        base: Id of the base on the Hub, if it is there.
        licence: Its identifier. language: Code or codes.
    """
    method, task = method_name(adapter), task_name(adapter)
    # The second is what PEFT itself writes and what people search for; the others are for programs.
    tags = [OURS, method.replace("_", "-"), method_tag(method), *([task_tag(task)] if task else [])]
    extra: dict[str, Any] = {}
    if base:
        extra["base_model_relation"] = "adapter" if adapter.kind == "peft" else "finetune"
    results = eval_results(adapter)
    source = str(adapter.record.data.get("source") or "") if adapter.record else ""
    return ModelCardData(
        model_name=name if results else None,
        library_name="peft" if adapter.kind == "peft" else "transformers",
        base_model=base,
        pipeline_tag=pipeline_tag(adapter),
        tags=list(dict.fromkeys(tags)),
        license=licence,
        language=language if language is None or isinstance(language, str) else list(language),
        datasets=[source] if is_hub_dataset(source, adapter.record) else None,
        eval_results=results or None,
        **extra,
    )


def eval_results(adapter: AdapterDir) -> list[EvalResult]:
    """The record's metrics with their intervals, and the data that they were measured on."""
    if adapter.record is None:
        return []
    data = adapter.record.data
    source = str(data.get("source") or "")
    hub = is_hub_dataset(source, adapter.record)
    measured = {key: data[key] for key in ("eval_rows", "sha256") if data.get(key) is not None}
    results = []
    for metric, value, interval in metric_rows(adapter.record):
        short = metric.removeprefix("eval_")
        kind = next((known for start, known in _METRIC_TYPES.items() if short.startswith(start)), short)
        results.append(
            EvalResult(
                task_type=pipeline_tag(adapter) or "other",
                dataset_type=source if hub else "custom",
                dataset_name=source if hub else Path(source).name or task_name(adapter) or "evaluation data",
                dataset_split=data.get("eval_split"),
                dataset_revision=data.get("revision"),
                dataset_args=measured or None,
                metric_type=kind,
                metric_name=short,
                metric_value=value,
                metric_args=dict(interval) or None,
            )
        )
    return results


def metric_rows(record: Record) -> list[tuple[str, float, Mapping[str, float]]]:
    """Name, value, and ``low``, ``high`` and ``confidence`` of its interval as far as there is one."""
    rows: list[tuple[str, float, Mapping[str, float]]] = []
    for name, entry in record.metrics.items():
        parts = entry if isinstance(entry, Mapping) else {"value": entry}
        value = parts.get("value")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or _BOOKKEEPING.fullmatch(name):
            continue
        whole = parts.get("low") is not None and parts.get("high") is not None
        keys = ("low", "high", "confidence") if whole else ()
        rows.append((name, value, {key: parts[key] for key in keys if parts.get(key) is not None}))
    return rows


def is_hub_dataset(source: str, record: Record | None) -> bool:
    """Whether this is the id of a data set on the Hub, and no file."""
    revision = record.data.get("revision") if record else None
    return "/" in source and Path(source).suffix not in _DATA_FILES and is_hub_id(source, revision)


def task_type(adapter: AdapterDir) -> str | None:
    """What the base is loaded for (PEFT's names, and our two): by the lock, the configuration or the base's class."""
    if adapter.lock is not None and adapter.lock.loaded_for:
        return adapter.lock.loaded_for
    if adapter.config.get("task_type"):
        return str(adapter.config["task_type"])
    classes = adapter.config.get("architectures") or []
    classes = [*classes, (adapter.config.get("auto_mapping") or {}).get("base_model_class") or ""]
    return next((t for c in classes for end, t in _CLASS_ENDINGS.items() if str(c).endswith(end)), None)


def pipeline_tag(adapter: AdapterDir) -> str | None:
    """The Hub's name of what the model does."""
    kind, name = task_type(adapter), task_name(adapter)
    if kind == "SEQ_2_SEQ_LM" and name and "summar" in name.lower():
        return "summarization"
    return _AUTO_CLASSES[kind][1] if kind in _AUTO_CLASSES else None


def auto_class(adapter: AdapterDir) -> str:
    """Name of the class of transformers that loads the base."""
    return _AUTO_CLASSES.get(task_type(adapter) or "", ("AutoModel", ""))[0]
