"""The catalogue: adapters by owner, base, task and method, from the Hub's own tags and card data.

There is no index of ours that could go stale. A listing call brings all that is shown: the base from
``base_model`` or the tag ``base_model:adapter:ID``, method and task from the tags that ``card_front.py`` writes
(``method:lora``, ``task:summary``), the metrics from ``model-index``, the size from the safetensors header that the
Hub has read, else from the storage that the repo uses. Adapters that were not made with hfplug are listed too; their
method is what their tags say, and for the first few of unknown method what ``adapter_config.json`` says.

The same rows are read from a tree of local folders.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.card_front import OURS, method_tag, metric_rows, task_name, task_tag
from hfplug.adapters.files import CONFIG, RECORD
from hfplug.errors import AdapterError, HfplugError, HubError, HubUnavailableError
from hfplug.hub.client import HubClient, translated
from hfplug.hub.pull import connect_to
from hfplug.hub.retry import retrying
from hfplug.methods import method_names

logger = logging.getLogger(__name__)

Sort = Literal["rouge", "size", "date"]
SORTS = ("rouge", "size", "date")
LIMIT = 1000
_TRIES = 3
_LOOKED_INTO = 20  # adapters of unknown method whose configuration is read
_EXPAND = ("author", "cardData", "config", "gated", "lastModified", "library_name", "model-index", "pipeline_tag",
           "private", "safetensors", "sha", "siblings", "tags", "usedStorage")  # fmt: skip
_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1, "BOOL": 1}
# What a row of another shape than it should be can raise; the others are shown all the same.
_ODD = (AttributeError, TypeError, ValueError, KeyError, ArithmeticError, RecursionError, OSError)
# The first that an adapter has decides its place. Names as rouge-score and evaluate write them.
_ROUGES = ("rouge1", "rougelsum", "rougel", "rouge2", "rouge")


@dataclass(frozen=True)
class AdapterEntry:
    """One row of the catalogue. What is not known is None.

    Attributes:
        name: The repo's id, or the folder.
        base: Id (or folder) of the base. method: As the user types it. task: Its name.
        metrics: Name to value, as in the card or the record.
        size: Bytes of the weights; of the whole repo where the Hub does not say more.
        updated: When it was last changed, ISO 8601, UTC.
        commit: Of the repo's default branch.
        made_with: ``"hfplug"`` or ``"other"``.
        visibility: ``"public"``, ``"private"``, ``"gated"`` or ``"local"``.
    """

    name: str
    base: str | None = None
    method: str | None = None
    task: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    size: int | None = None
    updated: str | None = None
    commit: str | None = None
    made_with: Literal["hfplug", "other"] = "other"
    visibility: Literal["public", "private", "gated", "local"] = "public"

    __hash__ = None  # type: ignore[assignment]  # it holds a mapping

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values."""
        return {**dataclasses.asdict(self), "metrics": dict(self.metrics)}

    @property
    def rouge(self) -> float | None:
        """What ``sort="rouge"`` goes by: ROUGE-1, which the list shows first, else Lsum, L, 2."""
        found = {re.sub(r"[^a-z0-9]", "", name.lower().removeprefix("eval_")): v for name, v in self.metrics.items()}
        return next((found[name] for name in _ROUGES if name in found), None)


def find_adapters(
    owner: str | None = None,
    base: str | None = None,
    task: str | None = None,
    method: str | None = None,
    *,
    sort: Sort = "date",
    endpoint: str | None = None,
    token: str | None = None,
    folder: str | Path | None = None,
    limit: int = LIMIT,
) -> list[AdapterEntry]:
    """Adapters on a Hub, or below a local folder.

    With an owner or a base, every PEFT adapter of it; without either, those made with hfplug, for a public Hub holds
    more others than anybody reads.

    Args:
        owner: User or organisation.
        base: Id of the base.
        task: Name of the task, e.g. ``"summary"``.
        method: Name of the method, e.g. ``"lora"``.
        sort: ``"rouge"`` and ``"date"``: highest and newest first; ``"size"``: smallest first. What lacks it
            comes last.
        endpoint: Address of the Hub; that of ``HF_ENDPOINT`` if not given.
        token: Access token; private repos are listed to whom they belong.
        folder: Look below this folder instead of on a Hub.
        limit: Read at most so many rows of the Hub, newest first; a note in the log says if there were more.

    Raises:
        AdapterError: ``sort`` is no such order, or there is no such folder.
        HubError: The Hub cannot be asked.
    """
    if sort not in SORTS:
        raise AdapterError(f"sort must be one of {', '.join(SORTS)}, not {sort!r}.")
    if folder is not None:
        entries = list(_local_entries(Path(folder)))
    else:
        entries = _hub_entries(connect_to(endpoint, token), owner, base, task, method, limit)
    wanted = {"base": base, "task": task, "method": method}
    kept = [entry for entry in entries if all(_is(getattr(entry, key), value, key) for key, value in wanted.items())]
    if folder is not None and owner is not None:
        raise AdapterError("Folders have no owner.", fix="Leave owner out.")
    return sorted(kept, key=lambda entry: _order(entry, sort))


def read_entry(adapter: AdapterDir) -> AdapterEntry:
    """The row of one adapter's folder.

    Args:
        adapter: The folder.
    """
    record = adapter.record
    changed = max(file.stat().st_mtime for file in adapter.weights)
    moment = datetime.datetime.fromtimestamp(changed, datetime.timezone.utc).isoformat(timespec="seconds")
    peft_type = str(adapter.config.get("peft_type") or "full").lower()
    return AdapterEntry(
        name=str(adapter.path),
        base=adapter.base_name,
        method=record.method if record else peft_type,
        task=task_name(adapter),
        metrics={name: float(value) for name, value, _ in metric_rows(record)} if record else {},
        size=adapter.weight_bytes,
        updated=record.created if record else moment,
        made_with="hfplug" if record or adapter.lock else "other",
        visibility="local",
    )


# ----------------------------------------------------------------------------------------------------- hub


def _hub_entries(
    client: HubClient, owner: str | None, base: str | None, task: str | None, method: str | None, limit: int
) -> list[AdapterEntry]:
    if owner:
        # All that is theirs: what PEFT pushes on its own bears no tag that says so.
        filters: list[list[str]] = [[]]
    elif base:
        # Full models are listed if they are ours: others of the same base are no matter of an adapter's catalogue.
        filters = [[f"base_model:adapter:{base}"], [f"base_model:finetune:{base}", OURS]]
    else:
        filters = [[OURS, *([method_tag(method)] if method else []), *([task_tag(task)] if task else [])]]
    found_entries: dict[str, AdapterEntry] = {}
    _reach(client)
    for tags in filters:
        found = _list(client, tags, owner, limit)
        if len(found) >= limit:
            logger.warning("Only the newest %d were looked at; narrow the search by owner or base.", limit)
        for info in found:
            try:
                if info.id not in found_entries and _is_adapter(info):
                    found_entries[info.id] = _entry_of(info)
            except _ODD as error:
                logger.warning("%s is left out, for what the Hub says of it cannot be read: %s", info.id, error)
    entries = list(found_entries.values())
    unknown = [number for number, entry in enumerate(entries) if entry.method is None or entry.base is None]
    for number in unknown[:_LOOKED_INTO]:
        entries[number] = _looked_into(client, entries[number])
    return entries


def _reach(client: HubClient) -> None:
    """Ask once whether the Hub is there: the client asks five times for a listing, over half a minute."""
    from huggingface_hub.utils import get_session

    try:
        with translated("list adapters", client=client):
            client.call(lambda: get_session().get(f"{client.endpoint}/api/models", params={"limit": 1}))
    except HubUnavailableError as error:
        if error.status is None:  # else somebody answered, and is asked again below
            raise


def _list(client: HubClient, tags: list[str], owner: str | None, limit: int) -> list[Any]:
    def once() -> list[Any]:
        with translated("list adapters", client=client):
            wanted: dict[str, Any] = {"filter": tags or None, "author": owner, "expand": list(_EXPAND)}
            return list(client.call(client.api.list_models, sort="last_modified", limit=limit, **wanted))

    return retrying(once, tries=_TRIES, first_wait=0.5, longest_wait=client.timeout)


def _is_adapter(info: Any) -> bool:
    tags = set(info.tags or ())
    names = {item.rfilename for item in info.siblings or ()}
    return CONFIG["peft"] in names or bool(tags & {OURS, "peft"}) or any("base_model:adapter:" in tag for tag in tags)


def _entry_of(info: Any) -> AdapterEntry:
    tags = [str(tag) for tag in info.tags or ()]
    return AdapterEntry(
        name=info.id,
        base=_base_of(info, tags),
        method=_method_of(tags, info.library_name),
        task=next((tag.removeprefix("task:") for tag in tags if tag.startswith("task:")), None),
        metrics=_metrics_of(info),
        size=_size_of(info),
        updated=info.last_modified.isoformat(timespec="seconds") if info.last_modified else None,
        commit=info.sha,
        made_with="hfplug" if OURS in tags else "other",
        visibility="private" if info.private else "gated" if info.gated else "public",
    )


def _base_of(info: Any, tags: list[str]) -> str | None:
    named = getattr(info.card_data, "base_model", None) if info.card_data else None
    if isinstance(named, (list, tuple)):
        named = named[0] if named else None
    tagged = (tag.split(":", 2)[2] for tag in tags if re.match(r"base_model:(adapter|finetune):.", tag))
    config = info.config if isinstance(info.config, Mapping) else {}
    in_config = (config.get("peft") or {}).get("base_model_name_or_path")
    return next((str(one) for one in (named, *tagged, in_config) if one), None)


def _method_of(tags: Iterable[str], library: str | None) -> str | None:
    tags = [tag.lower() for tag in tags]
    said = next((tag.removeprefix("method:") for tag in tags if tag.startswith("method:")), None)
    if said is None:
        # What people and PEFT write on their own. "full" means other things on a Hub.
        known = {name.replace("_", "-"): name for name in method_names() if name != "full"}
        said = next((known[word] for tag in tags if (word := tag.replace("_", "-")) in known), None)
    if said is None and library not in (None, "peft") and OURS in tags:
        return "full"
    return said


def _metrics_of(info: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for result in getattr(info.card_data, "eval_results", None) or ():
        name = str(result.metric_name or result.metric_type)
        if isinstance(result.metric_value, (int, float)) and not isinstance(result.metric_value, bool):
            found.setdefault(name, float(result.metric_value))
    models = info.model_index if isinstance(info.model_index, list) else []
    results = [r for model in models if isinstance(model, Mapping) for r in model.get("results") or ()]
    for metric in (m for result in results if isinstance(result, Mapping) for m in result.get("metrics") or ()):
        value = metric.get("value") if isinstance(metric, Mapping) else None
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found.setdefault(str(metric.get("name") or metric.get("type")), float(value))
    return found


def _size_of(info: Any) -> int | None:
    parameters = getattr(info.safetensors, "parameters", None) if getattr(info, "safetensors", None) else None
    if parameters:
        return sum(int(count) * _BYTES.get(str(dtype), 4) for dtype, count in parameters.items())
    return getattr(info, "used_storage", None)


def _looked_into(client: HubClient, entry: AdapterEntry) -> AdapterEntry:
    """With the method that the adapter's configuration names, if it can be read: a small file, cached by its commit."""
    try:
        with translated("pull", entry.name, client=client):
            path = client.call(
                client.api.hf_hub_download, repo_id=entry.name, filename=CONFIG["peft"], revision=entry.commit
            )
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (HubError, *_ODD) as error:
        logger.info("What %s is made with is not known: %s", entry.name, error)
        return entry
    values = values if isinstance(values, dict) else {}
    method = entry.method or str(values.get("peft_type") or "").lower() or None
    base = entry.base or str(values.get("base_model_name_or_path") or "") or None
    return dataclasses.replace(entry, method=method, base=base)


# -------------------------------------------------------------------------------------------------- folders


def _local_entries(folder: Path) -> Iterable[AdapterEntry]:
    if not folder.is_dir():
        raise AdapterError(f"There is no folder {folder}.", fix="Pass a folder with adapters below it.")
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # A Trainer's checkpoint holds an adapter too, on its way.
        if "trainer_state.json" in names or not {CONFIG["peft"], RECORD} & set(names):
            continue
        try:
            yield read_entry(AdapterDir.open(root))
        except (HfplugError, *_ODD) as error:  # DataError: of its task
            logger.warning("%s is left out: %s", root, error)


def _is(value: str | None, wanted: str | None, key: str) -> bool:
    if wanted is None:
        return True
    if value is None:
        return False
    if key == "base":
        return value.lower() == wanted.lower() or Path(value) == Path(wanted)
    words = [re.sub(r"[\s_-]+", "-", text.lower().strip()) for text in (value, wanted)]
    return words[0] == words[1]


def _order(entry: AdapterEntry, sort: Sort) -> tuple[bool, Any, str]:
    if sort == "rouge":
        return entry.rouge is None, -(entry.rouge or 0.0), entry.name
    if sort == "size":
        return entry.size is None, entry.size or 0, entry.name
    moment = _moment(entry.updated)
    return moment is None, -(moment or 0.0), entry.name


def _moment(text: str | None) -> float | None:
    try:
        return datetime.datetime.fromisoformat((text or "").replace("Z", "+00:00")).timestamp()
    except (ValueError, OverflowError):  # the year 0, say
        return None
