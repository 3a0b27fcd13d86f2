"""Cards: what a README's front matter says, what is wrong with it, and the tags that follow from it."""

from __future__ import annotations

import functools
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import yaml

from hfplug.hub.server.commit import Commit
from hfplug.hub.server.repo import Repo

CARD = "README.md"
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_REPO_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
_SHOWN_OF_CONFIGS = ("architectures", "model_type", "base_model_name_or_path", "task_type")
# Read with libyaml where PyYAML was built with it: ten times as fast.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LARGEST_CARD = 1 << 20  # bytes of a README that are looked at
_LARGEST_FRONT_MATTER = 1 << 16
_MOST_LEVELS = 40
# The client hands the keys of a card to a function that has these parameters itself.
_RESERVED = ("self", "ignore_metadata_errors")
_RELATIONS = ("adapter", "finetune", "merge", "quantized")


def read_card(text: str) -> dict[str, Any]:
    """The front matter of a card as JSON values; empty if there is none.

    A card is what any user writes and every listing shows: whatever is wrong with it is a ValueError here.

    Raises:
        ValueError: It is no YAML, no mapping, longer than 64 kB, or holds what JSON cannot: NaN, say.
    """
    match = _FRONT_MATTER.match(text[:LARGEST_CARD])
    if match is None:
        return {}
    if len(match[1]) > _LARGEST_FRONT_MATTER:
        raise ValueError(f"the front matter has {len(match[1])} letters; {_LARGEST_FRONT_MATTER} is the most")
    try:
        _check_shape(match[1])
        value = yaml.load(match[1], Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"the front matter is not valid YAML: {' '.join(str(error).split())}") from error
    except ValueError:
        raise
    except Exception as error:  # the constructors of YAML's tags raise what they like: "!!bool x" is a KeyError
        raise ValueError(f"the front matter holds a value that cannot be read ({type(error).__name__})") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"the front matter must be a mapping, not {type(value).__name__}")
    return {_key(key): _plain(item) for key, item in value.items()}


def _check_shape(text: str) -> None:
    """Refuse what is short to write and long to read: an alias of an alias of …, and brackets in brackets in …"""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("the front matter holds an alias (*name); write the value itself")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_LEVELS:
            raise ValueError(f"the front matter is nested deeper than {_MOST_LEVELS} levels")


def _plain(value: Any) -> Any:
    """A value of YAML as JSON has it: dates become text."""
    if isinstance(value, dict):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("the front matter holds NaN or an infinite number")
        if isinstance(value, int) and value.bit_length() > 64:
            raise ValueError("the front matter holds a number of more than 64 bits")
        return value
    text = str(value)
    if not text.isascii():
        text.encode()  # half a surrogate pair cannot be sent; a UnicodeEncodeError is a ValueError
    return text


def _key(value: Any) -> str:
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain)


def problems(text: str) -> tuple[list[str], list[str]]:
    """What is wrong with a card, and what is only missing.

    Args:
        text: The whole README, or its front matter.

    Returns:
        Errors, for which the Hub refuses a card, and warnings.
    """
    try:
        card = read_card(text)
    except ValueError as error:
        return [str(error)], []
    if not card:
        return [], ["empty or missing yaml metadata in repo card"]
    errors = [f'"{key}" cannot be a key of a card' for key in _RESERVED if key in card]
    for key in ("base_model", "datasets"):
        for value in _texts(card.get(key)):
            if not _REPO_ID.fullmatch(value):
                errors.append(f'"{key}" with value "{value}" is not valid. Use a repo id such as "owner/name".')
    for key, kinds in {"license": str, "library_name": str, "pipeline_tag": str, "tags": list}.items():
        if card.get(key) is not None and not isinstance(card[key], kinds):
            errors.append(f'"{key}" must be a {"list" if kinds is list else "string"}')
    relation = card.get("base_model_relation")
    if relation is not None and relation not in _RELATIONS:
        errors.append(f'"base_model_relation" must be one of {", ".join(_RELATIONS)}')
    return errors + _index_errors(card.get("model-index")), []


def _index_errors(index: Any) -> list[str]:
    if index is None:
        return []
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for number, model in enumerate(index):
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            errors.append(f'"model-index[{number}].name" is required')
        results = model.get("results") if isinstance(model, dict) else None
        if not isinstance(results, list):
            errors.append(f'"model-index[{number}].results" must be an array')
            continue
        for place, result in enumerate(results):
            where = f"model-index[{number}].results[{place}]"
            if not isinstance(result, dict):
                errors.append(f'"{where}" must be an object')
                continue
            if not isinstance(result.get("task"), dict) or not result["task"].get("type"):
                errors.append(f'"{where}.task.type" is required')
            data = result.get("dataset")
            if not isinstance(data, dict) or not data.get("type") or not data.get("name"):
                errors.append(f'"{where}.dataset" needs a "type" and a "name"')
            metrics = result.get("metrics")
            if not isinstance(metrics, list) or not all(
                isinstance(metric, dict) and metric.get("type") and "value" in metric for metric in metrics
            ):
                errors.append(f'"{where}.metrics" must be an array of objects with "type" and "value"')
    return errors


def card_of(repo: Repo, commit: Commit) -> dict[str, Any]:
    """The front matter of a commit's README; empty if there is none, or one with errors."""
    file = commit.files.get(CARD)
    return dict(_card_at(repo.objects.path(file.sha256))) if file is not None else {}


@functools.lru_cache(maxsize=1024)
def _card_at(path: Path) -> dict[str, Any]:
    # The path names the content, so what was read once stays right.
    try:
        text = read_start(path)
    except OSError:
        return {}
    return read_card(text) if not problems(text)[0] else {}


def read_start(path: Path) -> str:
    """As much of a README as can hold a card."""
    with open(path, "rb") as file:
        return file.read(LARGEST_CARD).decode("utf-8", "replace")


@functools.lru_cache(maxsize=4096)
def _config_at(path: Path) -> dict[str, Any]:
    """Those values of a configuration that are shown and are texts, as they should be."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if os.path.getsize(path) < 1 << 20 else {}
    except (OSError, ValueError, RecursionError):
        return {}
    found = {key: value[key] for key in _SHOWN_OF_CONFIGS if key in value} if isinstance(value, dict) else {}
    return {key: item for key, item in found.items() if _is_short(item)}


def _is_short(value: Any) -> bool:
    texts = value if isinstance(value, list) else [value]
    return len(texts) < 10 and all(isinstance(text, str) and len(text) < 500 and text.isprintable() for text in texts)


def config_of(repo: Repo, commit: Commit) -> dict[str, Any]:
    """What the Hub shows of ``config.json`` and ``adapter_config.json``."""
    shown: dict[str, Any] = {}
    if file := commit.files.get("config.json"):
        config = _config_at(repo.objects.path(file.sha256))
        shown |= {key: config[key] for key in ("architectures", "model_type") if key in config}
    if file := commit.files.get("adapter_config.json"):
        config = _config_at(repo.objects.path(file.sha256))
        shown["peft"] = {key: config.get(key) for key in ("base_model_name_or_path", "task_type")}
    return shown


def tags_of(repo: Repo, commit: Commit) -> list[str]:
    """The tags by which a repo is found: those of the card and those that follow from it and from the files."""
    card = card_of(repo, commit)
    names = set(commit.files)
    tags = [library_of(repo, commit), card.get("pipeline_tag")]
    tags += ["safetensors"] if any(name.endswith(".safetensors") for name in names) else []
    tags += _texts(card.get("tags"))
    tags += _texts(card.get("language"))
    relation = card.get("base_model_relation") or ("adapter" if "adapter_config.json" in names else None)
    for base in _texts(card.get("base_model")):
        tags.append(f"base_model:{base}")
        if relation:
            tags.append(f"base_model:{relation}:{base}")
    tags += [f"dataset:{name}" for name in _texts(card.get("datasets"))]
    tags += [f"license:{name}" for name in _texts(card.get("license"))]
    return list(dict.fromkeys(tag for tag in tags if isinstance(tag, str) and tag))


def library_of(repo: Repo, commit: Commit) -> str | None:
    """The library of a model: the card's, else ``peft`` or ``transformers`` by its files."""
    named = card_of(repo, commit).get("library_name")
    if isinstance(named, str):
        return named
    if repo.type != "model":
        return None
    if "adapter_config.json" in commit.files:
        return "peft"
    return "transformers" if "config.json" in commit.files else None


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str) and item]
