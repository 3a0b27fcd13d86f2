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
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub.utils import yaml_dump

from hfplug.adapters.card_front import front_matter, is_hub_id, metric_rows
from hfplug.adapters.card_merge import merge_card, provenance
from hfplug.adapters.card_text import code, fence, inline, number_text, size_text, table
from hfplug.adapters.card_use import how_to_load
from hfplug.adapters.record import Record, scrub
from hfplug.adapters.safetensors_header import stored_dtypes

if TYPE_CHECKING:
    from hfplug.adapters.adapter_dir import AdapterDir

__all__ = ["is_hub_id", "merge_card", "render_card"]

_LONGEST_EXAMPLE = 4000  # characters
_MOST_EXAMPLES = 5


def render_card(
    adapter: AdapterDir,
    *,
    name: str | None = None,
    repo_id: str | None = None,
    base_id: str | None = None,
    licence: str | None = None,
    language: str | Sequence[str] | None = None,
) -> str:
    """The README of an adapter, with front matter that the Hub accepts.

    Args:
        adapter: Its files, record, lock and task are read, as far as there are any.
        name: The adapter's name, the title of the page; that of the repo or the folder if not given.
        repo_id: Where it will be on the Hub, to be shown in the code that loads it.
        base_id: Id of the base on the Hub, if that is known; else what the adapter names counts as an id if its commit
            is known or there is no such path.
        licence: Identifier of the licence, e.g. ``"apache-2.0"``. Left out if not given.
        language: Code or codes of the language, e.g. ``"en"``. Left out if not given.
    """
    name = scrub(name or (repo_id or adapter.path.name).rpartition("/")[2])
    record = adapter.record
    base = base_id or (adapter.base_name if is_hub_id(adapter.base_name, adapter.base_revision) else None)
    data = front_matter(adapter, name, base=base, licence=licence, language=language)
    sections = {
        "summary": _summary(adapter, record, base),
        "metrics": _metrics(record),
        "trade_offs": _trade_offs(record),
        "use": how_to_load(adapter, repo_id or name, on_hub=repo_id is not None, base=base),
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


def _summary(adapter: AdapterDir, record: Record | None, base_id: str | None) -> str:
    task = adapter.task
    what = "A fully tuned model" if adapter.kind == "full" else "An adapter"
    made = f" made with the method {code(record.method)}" if record else ""
    base = f" for the base {_shown_base(adapter, base_id)}" if adapter.base_name else ""
    commit = f" at commit {code(adapter.base_revision)}" if adapter.base_revision else ""
    dtypes = stored_dtypes(adapter.weights)
    stored = f", its weights in {code(' and '.join(dtypes))}" if dtypes else ""
    lines = [f"{what}{made}{base}{commit}, {size_text(adapter.weight_bytes)} on disk{stored}."]
    if task:
        lines.append(
            f"It was taught the task {code(task.name)}: {code(task.input_column)} in,"
            f" {code(task.target_column)} out. The prompt:"
        )
        lines.append(fence(task.prompt))
    for note in record.notes if record else ():
        lines.append(f"> {inline(note)}")
    return "\n\n".join(lines)


def _metrics(record: Record | None) -> str:
    rows, confidences = [], set()
    for name, value, interval in metric_rows(record) if record else ():
        shown = f"{interval['low']:.4g} to {interval['high']:.4g}" if interval else ""
        confidences |= {interval["confidence"]} if "confidence" in interval else set()
        rows.append((inline(name), f"{value:.4g}", shown))
    sure = f"{100 * confidences.pop():g} % " if len(confidences) == 1 else ""
    shown = table(("metric", "value", f"{sure}interval"), rows)
    return f"{_measured_on(record.data)}{shown}" if record and shown else ""


def _measured_on(data: Mapping[str, Any]) -> str:
    """The sentence that says which rows the metrics were measured on."""
    if not (data.get("source") or data.get("eval_rows")):
        return ""
    rows = f"{data['eval_rows']:,} rows" if isinstance(data.get("eval_rows"), int) else "rows"
    source = f" of {code(Path(str(data['source'])).name if _is_path(data['source']) else data['source'])}"
    parts = [f"split {code(data['eval_split'])}"] if data.get("eval_split") else []
    parts += [f"revision {code(data['revision'])}"] if data.get("revision") else []
    where = f"{source if data.get('source') else ''}{', ' if parts else ''}{', '.join(parts)}"
    return f"Measured on {rows}{where}.\n\n"


def _trade_offs(record: Record | None) -> str:
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
            (subject, inline(key.replace("_", " ")), number_text(key, value))
            for key, value in values.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        ]
    performance = [f"{name} {value:.4g}" for name, value, _ in metric_rows(record)]
    if rows and performance:
        rows.append(("model performance", "metrics", inline(", ".join(performance))))
    return table(("trade-off", "figure", "value"), rows)


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
    changed = [f"{code(key)} = {code(_shown(value))}" for key, value in record.method_settings.items()]
    if changed:
        first = f"Settings of {code(record.method)} that are not its defaults: {', '.join(changed)}.\n\n"
    else:
        first = f"All settings of {code(record.method)} are its defaults.\n\n"
    return first + _pairs({"method": record.method, **settings, **values})


def _pairs(values: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in values.items() if not (value is None or value == [] or value == {})}
    return table(("setting", "value"), [(inline(key), inline(_shown(value))) for key, value in kept.items()])


def _shown(value: Any) -> str:
    if _is_path(value):
        return Path(value).name  # whose machine it was is nobody's business
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and Path(value).is_absolute()


def _shown_base(adapter: AdapterDir, base: str | None) -> str:
    return f"[{inline(base)}](https://huggingface.co/{base})" if base else code(Path(adapter.base_name or "").name)
