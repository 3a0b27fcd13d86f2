"""The card of an adapter: its README, rendered from what is known, and merged with what people wrote.

The template ``card_template.md`` holds one section per subject between two comments::

    <!-- hfplug:begin metrics -->
    <!-- hfplug:end metrics -->

Rendering again replaces what stands between them and nothing else; ``card_merge.py`` does that. Whatever
comes from data (dialogues, notes, names) is escaped or fenced, so that it can neither break the page nor
look like one of these comments.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id, yaml_dump

from hfplug.adapters.card_merge import merge_card, provenance
from hfplug.adapters.record import Record, scrub

if TYPE_CHECKING:
    from hfplug.adapters.adapter_dir import AdapterDir

__all__ = ["is_hub_id", "merge_card", "render_card"]

# PEFT's task type to the class of transformers that loads the base, and to the Hub's pipeline tag.
_AUTO_CLASSES = {
    "SEQ_2_SEQ_LM": ("AutoModelForSeq2SeqLM", "text-generation"),
    "CAUSAL_LM": ("AutoModelForCausalLM", "text-generation"),
    "SEQ_CLS": ("AutoModelForSequenceClassification", "text-classification"),
    "TOKEN_CLS": ("AutoModelForTokenClassification", "token-classification"),
    "QUESTION_ANS": ("AutoModelForQuestionAnswering", "question-answering"),
    "FEATURE_EXTRACTION": ("AutoModel", "feature-extraction"),
}
_CLASS_ENDINGS = {
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
_METRIC_TYPES = {"rouge": "rouge", "loss": "loss", "accuracy": "accuracy", "f1": "f1", "bleu": "bleu"}
_BOOKKEEPING = re.compile(r"(.*_)?(runtime|samples_per_second|steps_per_second|epoch|step|flos)")
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_DATA_FILES = frozenset({".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".gz"})
_LONGEST_EXAMPLE = 4000  # characters
_MOST_EXAMPLES = 5


def render_card(
    adapter: AdapterDir,
    *,
    name: str | None = None,
    licence: str | None = None,
    language: str | Sequence[str] | None = None,
) -> str:
    """The README of an adapter, with front matter that the Hub accepts.

    Args:
        adapter: Its files, record, lock and task are read, as far as there are any.
        name: The adapter's name, the title of the page; the folder's name if not given.
        licence: Identifier of the licence, e.g. ``"apache-2.0"``. Left out if not given.
        language: Code or codes of the language, e.g. ``"en"``. Left out if not given.
    """
    name = scrub(name or adapter.path.name)
    record = adapter.record
    data = _front_matter(adapter, name, licence, language)
    sections = {
        "summary": _summary(adapter, record),
        "metrics": _metrics(record),
        "trade_offs": _trade_offs(adapter, record),
        "use": _use(adapter, name),
        "examples": _examples(record),
        "settings": _settings(record),
        "data": _pairs(record.data) if record else "",
        "versions": _pairs({**record.versions, "hfplug": record.hfplug_version}) if record else "",
    }
    front = data.to_dict()
    template = resources.files("hfplug.adapters").joinpath("card_template.md").read_text(encoding="utf-8")
    # A section without content goes, comments and all.
    for key, text in sections.items():
        if not text:
            marker = key.replace("_", "-")
            template = re.sub(
                rf"<!-- hfplug:begin {marker} -->.*?<!-- hfplug:end {marker} -->\n*", "", template, flags=re.S
            )
    values = {
        "front_matter": yaml_dump(scrub(front), sort_keys=False).strip(),
        "title": inline(name),
        "provenance": provenance(front, [key.replace("_", "-") for key, text in sections.items() if text]),
        **{key: scrub(text) for key, text in sections.items()},
    }
    # One pass, so that braces inside a value stay as they are.
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: values[match[1]], template).rstrip() + "\n"


def is_hub_id(name: str | None) -> bool:
    """Whether ``name`` can be a model's id on the Hub, and is no path on this machine."""
    if not name or name.startswith((".", "/", "~")) or "\\" in name or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


# ------------------------------------------------------------------------------------------- front matter


def _front_matter(
    adapter: AdapterDir, name: str, licence: str | None, language: str | Sequence[str] | None
) -> ModelCardData:
    record, task = adapter.record, adapter.task
    base = adapter.base_name if is_hub_id(adapter.base_name) else None
    method = record.method if record else str(adapter.config.get("peft_type") or "full").lower()
    task_name = task.name if task else record.task if record else None
    tags = ["hfplug", method.replace("_", "-"), task_name]
    extra: dict[str, Any] = {}
    if base:
        extra["base_model_relation"] = "adapter" if adapter.kind == "peft" else "finetune"
    source = str(record.data.get("source") or "") if record else ""
    results = _eval_results(record, source, adapter, task_name)
    return ModelCardData(
        model_name=name if results else None,
        library_name="peft" if adapter.kind == "peft" else "transformers",
        base_model=base,
        pipeline_tag=_pipeline_tag(adapter, task_name),
        tags=list(dict.fromkeys(tag.replace(" ", "-") for tag in tags if tag)),
        license=licence,
        language=language if language is None or isinstance(language, str) else list(language),
        datasets=[source] if _is_hub_dataset(source) else None,
        eval_results=results or None,
        **extra,
    )


def _eval_results(record: Record | None, source: str, adapter: AdapterDir, task_name: str | None) -> list[EvalResult]:
    if record is None:
        return []
    hub = _is_hub_dataset(source)
    dataset = source if hub else Path(source).name or task_name or "evaluation data"
    results = []
    for metric, value, _, _ in _metric_rows(record):
        short = metric.removeprefix("eval_")
        kind = next((known for start, known in _METRIC_TYPES.items() if short.startswith(start)), short)
        results.append(
            EvalResult(
                task_type=_pipeline_tag(adapter, task_name) or "other",
                dataset_type=source if hub else "custom",
                dataset_name=dataset,
                metric_type=kind,
                metric_name=short,
                metric_value=value,
            )
        )
    return results


def _is_hub_dataset(source: str) -> bool:
    return "/" in source and Path(source).suffix not in _DATA_FILES and is_hub_id(source)


def _task_type(adapter: AdapterDir) -> str | None:
    """PEFT's name of the task, from the configuration or the class of the base."""
    if adapter.config.get("task_type"):
        return str(adapter.config["task_type"])
    classes = adapter.config.get("architectures") or []
    classes = [*classes, (adapter.config.get("auto_mapping") or {}).get("base_model_class") or ""]
    return next((t for c in classes for end, t in _CLASS_ENDINGS.items() if str(c).endswith(end)), None)


def _pipeline_tag(adapter: AdapterDir, task_name: str | None) -> str | None:
    task_type = _task_type(adapter)
    if task_type == "SEQ_2_SEQ_LM" and task_name and "summar" in task_name.lower():
        return "summarization"
    return _AUTO_CLASSES[task_type][1] if task_type in _AUTO_CLASSES else None


# ----------------------------------------------------------------------------------------------- sections


def _summary(adapter: AdapterDir, record: Record | None) -> str:
    task = adapter.task
    what = "A fully tuned model" if adapter.kind == "full" else "An adapter"
    made = f" made with the method {code(record.method)}" if record else ""
    base = f" for the base {_shown_base(adapter)}" if adapter.base_name else ""
    commit = f" at commit {code(adapter.base_revision)}" if adapter.base_revision else ""
    lines = [f"{what}{made}{base}{commit}, {_bytes(adapter.weight_bytes)} on disk."]
    if task:
        lines.append(
            f"It was taught the task {code(task.name)}: {code(task.input_column)} in,"
            f" {code(task.target_column)} out. The prompt:"
        )
        lines.append(fence(task.prompt))
    for note in record.notes if record else ():
        lines.append(f"> {inline(note)}")
    return "\n\n".join(lines)


def _metric_rows(record: Record) -> list[tuple[str, float, float | None, float | None]]:
    rows = []
    for name, entry in record.metrics.items():
        parts = entry if isinstance(entry, Mapping) else {"value": entry}
        value = parts.get("value")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or _BOOKKEEPING.fullmatch(name):
            continue
        rows.append((name, value, parts.get("low"), parts.get("high")))
    return rows


def _metrics(record: Record | None) -> str:
    rows = []
    for name, value, low, high in _metric_rows(record) if record else ():
        interval = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
        rows.append((inline(name), f"{value:.4g}", interval))
    return table(("metric", "value", "interval"), rows)


def _trade_offs(adapter: AdapterDir, record: Record | None) -> str:
    if record is None:
        return ""
    parts = {
        "parameter efficiency": record.parameter_efficiency,
        "memory efficiency": record.memory_efficiency,
        "inference cost": record.inference_cost,
        "training speed": record.training_speed,
    }
    rows = []
    for subject, values in parts.items():
        rows += [
            (subject, inline(key.replace("_", " ")), _number(key, value))
            for key, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
    performance = [f"{name} {value:.4g}" for name, value, _, _ in _metric_rows(record)]
    if rows and performance:
        rows.append(("model performance", "metrics", inline(", ".join(performance))))
    return table(("trade-off", "figure", "value"), rows)


def _use(adapter: AdapterDir, name: str) -> str:
    place = json.dumps(name)
    hfplug = f"import hfplug\n\nmodel = hfplug.load_adapter({place})"
    lines = ["With hfplug, which checks that the base is the right one:", fence(hfplug, "python")]
    auto = _AUTO_CLASSES.get(_task_type(adapter) or "", ("AutoModel", ""))[0]
    if adapter.kind == "full":
        plain = f"from transformers import {auto}\n\nmodel = {auto}.from_pretrained({place})"
        return "\n\n".join([*lines, "With transformers alone:", fence(plain, "python")])
    base = adapter.base_name or "base"
    arguments = [json.dumps(base if is_hub_id(base) else f"path/to/{Path(base).name}")]
    if adapter.base_revision and is_hub_id(base):
        arguments.append(f"revision={json.dumps(adapter.base_revision)}")
    if adapter.num_labels is not None:
        arguments.append(f"num_labels={adapter.num_labels}")
    imports, before = f"from peft import PeftModel\nfrom transformers import {auto}", ""
    if settings := _bits_and_bytes(adapter):
        imports = f"import torch\nfrom peft import PeftModel\nfrom transformers import {auto}, BitsAndBytesConfig"
        before = f"quantization = BitsAndBytesConfig({settings})\n"
        arguments.append("quantization_config=quantization")
    call = f"base = {auto}.from_pretrained({', '.join(arguments)})"
    load = f"model = PeftModel.from_pretrained(base, {place})"
    plain = f"{imports}\n\n{before}{call}\n{load}"
    return "\n\n".join([*lines, "With PEFT and transformers alone:", fence(plain, "python")])


def _bits_and_bytes(adapter: AdapterDir) -> str:
    """Arguments of ``BitsAndBytesConfig``, from the lock; an empty text if the base was not quantised so."""
    settings = (adapter.lock.quantization if adapter.lock else None) or {}
    if not (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        return ""
    shown = []
    for key, value in settings.items():
        if key in ("load_in_4bit", "load_in_8bit", "bnb_4bit_use_double_quant") and value is True:
            shown.append(f"{key}=True")
        elif key == "bnb_4bit_quant_type" and settings.get("load_in_4bit"):
            shown.append(f"{key}={json.dumps(str(value))}")
        elif key == "bnb_4bit_compute_dtype" and settings.get("load_in_4bit"):
            shown.append(f"{key}=torch.{re.sub(r'^torch[.]|[^a-z0-9]', '', str(value))}")
    return ", ".join(shown)


def _examples(record: Record | None) -> str:
    blocks = []
    for example in record.examples[:_MOST_EXAMPLES] if record else ():
        for key in ("input", "output", "reference"):
            if example.get(key):
                blocks += [f"**{key}**", fence(str(example[key])[:_LONGEST_EXAMPLE])]
    return "\n\n".join(blocks)


def _settings(record: Record | None) -> str:
    if record is None:
        return ""
    names = ("steps", "epochs", "batch_size", "learning_rate", "seed", "best_checkpoint", "best_metric")
    values = {name: getattr(record, name) for name in (*names, "best_value", "created")}
    settings = record.all_method_settings or record.method_settings
    return _pairs({"method": record.method, **settings, **values})


def _pairs(values: Mapping[str, Any]) -> str:
    rows = []
    for key, value in values.items():
        if value is None or value == [] or value == {}:
            continue
        if isinstance(value, str) and Path(value).is_absolute():
            value = Path(value).name  # whose machine it was is nobody's business
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        rows.append((inline(key), inline(text)))
    return table(("setting", "value"), rows)


def _shown_base(adapter: AdapterDir) -> str:
    base = adapter.base_name or ""
    return f"[{inline(base)}](https://huggingface.co/{base})" if is_hub_id(base) else code(Path(base).name)


# ----------------------------------------------------------------------------------------------- Markdown


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; an empty text if there are no rows. Cells must be ``inline`` texts already."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines]) if lines else ""


def inline(text: object) -> str:
    """``text`` on one line, with everything escaped that Markdown or HTML would understand."""
    line = " ".join(_printable(str(text)).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|#~])|(?<!\w)_|_(?!\w)", lambda match: "\\" + match[0], line)


def code(text: object) -> str:
    """``text`` as inline code on one line."""
    line = " ".join(_printable(str(text)).split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def fence(text: str, language: str = "text") -> str:
    """``text`` as a block of code whose fence is longer than any run of backticks in it."""
    body = "\n".join(_printable(line) for line in text.splitlines())
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", body)), default=0))
    return f"{ticks}{language}\n{body}\n{ticks}"


def _printable(text: str) -> str:
    """``text`` without control characters, changes of direction, and what looks like one of our comments."""
    hidden = ("Cc", "Cs")
    kept = (c for c in text if c in "\n\t" or (unicodedata.category(c) not in hidden and c not in _DIRECTIONS))
    return "".join(kept).replace("<!-- hfplug:", "<!- - hfplug:")


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"


def _number(key: str, value: float) -> str:
    is_bytes = key.endswith("_bytes") or key in ("weights", "gradients", "optimizer_states", "rest")
    if is_bytes:
        return _bytes(value)
    if key.endswith("share"):
        return f"{100 * value:.3g} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
