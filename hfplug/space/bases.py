"""Whether an adapter is for the base that a Space runs, from what its repo says, before its weights are fetched.

A name decides where both sides have one. Where the adapter was trained on a folder, or the Space runs one, the settings
of the base in the adapter's lock decide. The weights of the base are compared when the adapter is loaded.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hfplug.adapters.files import CONFIG, LOCK, RECORD
from hfplug.errors import SpaceError
from hfplug.space.config import BUILT_IN, REPO_ID, SpaceConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """What is known of a repo before its weights are fetched.

    Attributes:
        repo_id: The repo.
        commit: The commit that was looked at.
        kind: ``"peft"`` or ``"full"``.
        size: Bytes of the files that would be fetched.
        base: The base that it names, or None.
        base_commit: The commit of the base that it names, or None.
        quantized: Whether it was trained over a quantised base, so that bitsandbytes is needed.
        private: Whether only its owner may read it.
        notes: What a visitor should know.
    """

    repo_id: str
    commit: str
    kind: str
    size: int
    base: str | None = None
    base_commit: str | None = None
    quantized: str = "no"
    private: str = "no"
    notes: tuple[str, ...] = ()


def judged(
    config: SpaceConfig, candidate: Candidate, documents: Mapping[str, Mapping[str, Any]], card_base: Any
) -> Candidate:
    """The candidate with the base that it names, if that is this Space's.

    Args:
        config: The Space's settings.
        candidate: Without its base.
        documents: File name to content: configuration, lock and record, as far as they are there.
        card_base: What the card's front matter says under ``base_model``.

    Raises:
        SpaceError: It is for another base, or does not say for which.
    """
    lock, record, settings = (documents.get(name, {}) for name in (LOCK, RECORD, CONFIG["peft"]))
    named = _first_text(lock.get("base"), record.get("base"), settings.get("base_model_name_or_path"))
    if named is None or not REPO_ID.fullmatch(named):
        named = _first_text(card_base) or named
    commit = _first_text(lock.get("base_commit"), record.get("base_commit"), settings.get("revision"))
    quantized = "yes" if lock.get("quantization") else "no"
    found = replace(candidate, base=named, base_commit=commit, quantized=quantized)
    ours = {name.lower() for name in (config.base, *config.allowed_bases)}
    if named is not None and named.lower() in ours:
        return found
    if named is not None and REPO_ID.fullmatch(named) and _runs_a_repo(config):
        raise SpaceError(
            f"{candidate.repo_id} is for the base {named}; this Space runs {shown_base(config)}.",
            fix="Pick an adapter of this base.",
        )
    return replace(found, notes=(*found.notes, _by_lock(config, candidate.repo_id, lock, named)))


def commit_notes(candidate: Candidate, ours: str | None) -> tuple[str, ...]:
    """What there is to say about the commit of the base.

    Args:
        candidate: What is known of the adapter.
        ours: The commit or branch that this Space runs, or None for a folder.
    """
    if candidate.base is None or not REPO_ID.fullmatch(candidate.base) or ours is None:
        return ()
    if candidate.base_commit is None:
        return ("It does not say at which commit of the base it was made.",)
    if candidate.base_commit != ours:
        return (f"It was made at commit {candidate.base_commit[:12]} of the base; this Space runs {ours[:12]}.",)
    return ()


def shown_base(config: SpaceConfig) -> str:
    """The name of this Space's base for people: no folder of this machine."""
    if config.base == BUILT_IN:
        return "hfplug's built-in base"
    return config.base if _runs_a_repo(config) else config.path(config.base).name


def _runs_a_repo(config: SpaceConfig) -> bool:
    return config.base != BUILT_IN and not config.path(config.base).is_dir()


def _by_lock(config: SpaceConfig, repo_id: str, lock: Mapping[str, Any], named: str | None) -> str:
    """The note of an adapter whose lock fits; its base cannot be compared by name."""
    expected = lock.get("config_sha256")
    about = f"the base {named}" if named is not None and REPO_ID.fullmatch(named) else "a base without a name on a Hub"
    if not isinstance(expected, str):
        raise SpaceError(
            f"{repo_id} is for {about}; this Space runs {shown_base(config)}, and nothing in the repo shows that they"
            " are the same.",
            fix="Pick an adapter that names this base, or one that hfplug exported, which brings a lock.",
        )
    if expected != _config_sum(config.base_source, config.revision):
        raise SpaceError(
            f"{repo_id} was made for another base than {shown_base(config)}: the settings in its lock differ.",
            fix="Pick an adapter of this base.",
        )
    return "It names no base on a Hub; the lock that it brings is for a base with the settings of this one."


@functools.lru_cache(maxsize=8)
def _config_sum(base: str, revision: str | None) -> str:
    from hfplug.adapters.fingerprint import config_sha256
    from hfplug.models.base import resolve_base

    return config_sha256(resolve_base(base, revision=revision).config)


def _first_text(*values: Any) -> str | None:
    for value in values:
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None
