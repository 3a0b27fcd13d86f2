"""Which adapters a Space takes, and the only place where it pulls one.

A visitor names a repo, and everything about that repo is a stranger's: its name, its files, its card. So a visitor's
adapter is looked at in this order, and the first thing that is wrong ends it, in words for people:

1. the name is one of a repo, not a path or an address, and its owner is one that this Space allows;
2. the repo is there, public and not gated. This Space's own token may open more; a visitor does not get to see that;
3. its files are those of one adapter, as safetensors, and together no larger than allowed, by the Hub's own list;
4. the base that it names is this Space's, before a byte of its weights is fetched;
5. it is pulled by that commit, its files are compared with the Hub's sums and with its lock.

Whether it answers as it did for its author (lock and probe, on the base itself) is found out when the service loads it,
before it is shown. What the owner of the Space put into the settings goes the same way without 1, 2 and the limits.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfplug.adapters.files import CONFIG, LOCK, RECORD
from hfplug.errors import (
    HfplugError,
    HubAccessError,
    HubError,
    HubNotFoundError,
    SpaceError,
)
from hfplug.hub.client import HubClient, connect, translated
from hfplug.hub.pull import pull_adapter, wanted_files
from hfplug.space.added_cache import SPARE, tidy, used, visitors_cache
from hfplug.space.bases import Candidate, commit_notes, judged
from hfplug.space.config import REPO_ID, REVISION, SpaceConfig, VariantSource
from hfplug.space.words import UNEXPECTED, plain_line

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 15.0
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST_SOURCE = 200
_LONGEST_ID = 96  # on a Hub
_LONGEST_NAME = 90  # of a column, without its commit
_COMMITS = 1000  # how far back a commit is looked for
_LARGEST_DOCUMENT = 32 << 20
# Visitors' adapters that are fetched at the same time; more are told to come back.
_AT_ONCE = threading.BoundedSemaphore(2)
_WHAT_TO_TYPE = "Type OWNER/NAME, as in the address of its page on the Hub."


@dataclass(frozen=True)
class Resolved:
    """An adapter that may be loaded.

    Attributes:
        name: What to call its column. A visitor's bears the name of its repo, which no variant of the settings can.
        folder: Its files; read them, never change them.
        commit: The commit that they are of, or None for a folder.
        repo_id: The repo, or None for a folder.
        size: Bytes of its files.
        notes: What a visitor should know, for example that its commit of the base is another one.
    """

    name: str
    folder: Path
    commit: str | None
    repo_id: str | None
    size: int
    notes: tuple[str, ...] = ()


def resolve_variant(
    config: SpaceConfig, source: str, revision: str | None = None, *, base_commit: str | None = None
) -> Resolved:
    """The files of an adapter that a visitor named. The only place where a Space fetches one.

    Args:
        config: The Space's settings.
        source: ``owner/name``, or ``owner/name@revision``.
        revision: Branch, tag or commit.
        base_commit: The commit of the base that this Space runs, if it is known.

    Raises:
        SpaceError: It may not be added; the message is for the visitor and repeats nothing that could be markup.
    """
    if config.add_adapters == "off":
        raise SpaceError("This Space shows the adapters that its owner chose, and takes no others.")
    repo_id, revision = parse_repo(source, revision)
    owner = repo_id.partition("/")[0]
    if config.allowed_owners and owner.lower() not in (name.lower() for name in config.allowed_owners):
        raise SpaceError(
            f"This Space takes adapters of {_and(config.allowed_owners)} only, not of {owner}.",
            fix="Pick one of theirs, or run this Space yourself: hfplug space serve",
        )
    if not _AT_ONCE.acquire(blocking=False):
        raise SpaceError("Other adapters are being fetched at this moment.", fix="Try again in a minute.")
    return _within(
        config.limits.pull_seconds, lambda: _fetch(config, repo_id, revision, base_commit, visitor="yes"), repo_id
    )


def resolve_own(config: SpaceConfig, variant: VariantSource, *, base_commit: str | None = None) -> Resolved:
    """The files of a variant that the settings name: a folder, or a repo of any owner and size.

    Raises:
        HfplugError: It is not there, or is no adapter for this base.
    """
    folder = config.folder_of(variant)
    if folder is None:
        found = _fetch(config, variant.source, variant.revision, base_commit, visitor="no")
        return Resolved(variant.name, found.folder, found.commit, found.repo_id, found.size, found.notes)
    if variant.revision is not None:
        raise SpaceError(f"Variant {variant.name!r} is a folder, and a folder has no revision.")
    pulled = pull_adapter(folder)
    adapter = pulled.adapter
    size = sum(file.stat().st_size for file in adapter.files())
    return Resolved(variant.name, adapter.path, None, None, size)


def resolve_report(config: SpaceConfig) -> Path | None:
    """The ``report.json`` of the study that a Space shows beside its columns; None if it shows none.

    Raises:
        HfplugError: The settings name one that is not there.
    """
    if config.report is None:
        return None
    if config.report.startswith("hf://"):
        name = config.report.removeprefix("hf://")
        kind = "dataset" if name.startswith("datasets/") else "model"
        repo_id, revision = parse_repo(name.removeprefix("datasets/"), None)
        client = connect(config.endpoint, None, timeout=TIMEOUT_SECONDS)
        with translated("read the report in", repo_id, client=client):
            where: dict[str, Any] = {"repo_type": kind, "revision": revision}
            return Path(client.call(client.api.hf_hub_download, repo_id, "report.json", **where))
    path = config.path(config.report)
    path = path / "report.json" if path.is_dir() else path
    if not path.is_file():
        raise SpaceError(f"There is no report at {str(path)!r}.", fix="Pass a study's folder, or its report.json.")
    return path


def parse_repo(source: str, revision: str | None) -> tuple[str, str | None]:
    """The id of a repo and a revision, as a visitor typed them. Paths, addresses and control characters are none.

    Raises:
        SpaceError: They are none; what was typed is not repeated.
    """
    if not isinstance(source, str) or not source.strip():
        raise SpaceError("No adapter is named yet.", fix=_WHAT_TO_TYPE)
    if len(source) > _LONGEST_SOURCE or (revision is not None and len(revision) > _LONGEST_SOURCE):
        raise SpaceError("That is too long to be the id of a repo.", fix=_WHAT_TO_TYPE)
    name, at, named = source.strip().partition("@")
    given = (revision or "").strip() or None
    if (
        not REPO_ID.fullmatch(name)
        or len(name) > _LONGEST_ID
        or ".." in name
        or "--" in name
        or name.endswith((".git", "."))
    ):
        raise SpaceError("That is not the id of a repo.", fix=_WHAT_TO_TYPE)
    if at and not named:
        raise SpaceError("There is no revision behind the '@'.", fix=_WHAT_TO_TYPE)
    if named and given and named != given:
        raise SpaceError("Two different revisions are named.", fix="Name one of them.")
    chosen = named or given
    if chosen is not None and (
        not REVISION.fullmatch(chosen) or ".." in chosen or "//" in chosen or chosen.startswith("refs/")
    ):
        raise SpaceError("That is not a branch, a tag or a commit.", fix="Leave the revision out for the newest.")
    return name, chosen


def look_at(config: SpaceConfig, repo_id: str, revision: str | None = None, *, visitor: str = "no") -> Candidate:
    """What a repo holds, without its weights.

    Args:
        config: The Space's settings.
        repo_id: ``owner/name``.
        revision: Branch, tag or commit.
        visitor: ``"yes"`` if a stranger asks: then private and gated repos are as if they were not there, and the
            limit of bytes counts.

    Raises:
        HfplugError: It is not there, is not safe, is too large, or is for another base.
    """
    client = connect(config.endpoint, None, timeout=TIMEOUT_SECONDS)
    with translated("look at", repo_id, client=client):
        info = client.call(client.api.model_info, repo_id, revision=revision, files_metadata=True)
        commit = str(info.sha)
        if visitor == "yes" and info.private:
            raise HubNotFoundError("private")
        if visitor == "yes" and info.gated:
            raise SpaceError(f"{repo_id} is gated: its owner lets people in one by one.", fix="Pick a public adapter.")
        if not _COMMIT.fullmatch(commit):
            raise SpaceError(f"The Hub names no commit of {repo_id}.")
        if visitor == "yes" and config.allowed_owners and revision is not None:
            _refuse_pull_requests(client, repo_id, revision, commit)
        files = {item.rfilename: item.size for item in info.siblings or ()}
        wanted = wanted_files(set(files), repo_id)
        size = _size_of(repo_id, files, wanted, config.limits.pull_bytes if visitor == "yes" else None)
        documents = {
            name: _document(client, repo_id, commit, name, files, visitors_cache() if visitor == "yes" else None)
            for name in (*CONFIG.values(), LOCK, RECORD)
            if name in wanted
        }
    card = getattr(info, "card_data", None)
    named = getattr(card, "base_model", None) if card is not None else None
    found = Candidate(repo_id, commit, _kind(files), size, private="yes" if info.private else "no")
    return judged(config, found, documents, named)


# ------------------------------------------------------------------------------------------------ fetching


def _fetch(
    config: SpaceConfig, repo_id: str, revision: str | None, base_commit: str | None, *, visitor: str
) -> Resolved:
    from hfplug.adapters.foreign import method_of

    try:
        candidate = look_at(config, repo_id, revision, visitor=visitor)
        # As an address, so that a folder of this machine with the same name is never read instead.
        cache = visitors_cache() if visitor == "yes" else None
        address, commit = f"hf://{repo_id}", candidate.commit
        pulled = pull_adapter(address, revision=commit, endpoint=config.endpoint, cache_dir=cache)
    except (HubNotFoundError, HubAccessError) as error:
        if visitor == "no":
            raise
        logger.info("A visitor asked for %s: %s", repo_id, error)
        at = f" with a revision {revision}" if revision else ""
        raise SpaceError(f"There is no public repo {repo_id}{at} on the Hub.", fix="Check the spelling.") from None
    if cache is not None:
        used(pulled.adapter.path)
        tidy(cache, config.limits.added_variants + SPARE)
    method_of(pulled.adapter)  # refuses those that would fetch further repos
    notes = (*candidate.notes, *commit_notes(candidate, base_commit or config.revision))
    shown = repo_id if len(repo_id) <= _LONGEST_NAME else f"{repo_id[: _LONGEST_NAME - 1]}…"
    name = f"{shown}@{candidate.commit[:7]}" if revision else shown
    return Resolved(name, pulled.adapter.path, candidate.commit, repo_id, candidate.size, notes)


def _within(seconds: float, work: Callable[[], Resolved], repo_id: str) -> Resolved:
    """The result of ``work``, unless it takes longer. The place among those at once is free when it has ended."""
    future: concurrent.futures.Future[Resolved] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        finally:
            _AT_ONCE.release()

    threading.Thread(target=run, name="hfplug-space-add", daemon=True).start()
    try:
        return future.result(timeout=seconds)
    except concurrent.futures.TimeoutError:
        raise SpaceError(f"{repo_id} was not here within {seconds:.0f} seconds.", fix="Try again later.") from None
    except SpaceError:
        raise
    except HubError as error:
        logger.info("Adding %s: %s", repo_id, error)
        what = "cannot be reached" if error.transient else "does not give it out"
        raise SpaceError(f"{repo_id} cannot be added: the Hub {what} at the moment.", fix="Try again later.") from None
    except HfplugError as error:
        # Its words may quote a file of the repo.
        raise SpaceError(f"{repo_id} cannot be added: {plain_line(error.message)}") from None
    except Exception as error:
        logger.error("Adding %s failed", repo_id, exc_info=error)
        raise SpaceError(f"{repo_id} cannot be added. {UNEXPECTED}") from None


def _size_of(repo_id: str, files: Mapping[str, int | None], wanted: list[str], most: int | None) -> int:
    unknown = [name for name in wanted if files[name] is None]
    if unknown and most is not None:
        raise SpaceError(f"The Hub does not say how large {repo_id} is, so it was not fetched.")
    size = sum(files[name] or 0 for name in wanted)
    if most is not None and size > most:
        whole = " It is a whole model, not an adapter." if _kind(files) == "full" else ""
        raise SpaceError(
            f"{repo_id} has {size / 1e6:,.0f} MB; this Space fetches at most {most / 1e6:,.0f} MB.{whole}",
            fix="Run this Space yourself for larger ones: hfplug space serve",
        )
    return size


def _kind(files: Mapping[str, Any]) -> str:
    return "peft" if CONFIG["peft"] in files else "full"


def _refuse_pull_requests(client: HubClient, repo_id: str, revision: str, commit: str) -> None:
    """Anybody may open a pull request, and its commits are commits of the repo: they are none of its owner's."""
    refs = client.call(client.api.list_repo_refs, repo_id)
    own = [*refs.branches, *refs.tags]
    if revision in (ref.name for ref in own) or commit in (ref.target_commit for ref in own):
        return
    history = client.call(lambda: list(itertools.islice(client.api.list_repo_commits(repo_id), _COMMITS)))
    if commit not in (item.commit_id for item in history):
        raise SpaceError(
            f"This revision of {repo_id} is not known to be its owner's; it may be a stranger's pull request.",
            fix="Name a branch or a tag, or leave the revision out.",
        )


def _document(
    client: HubClient, repo_id: str, commit: str, name: str, files: Mapping[str, int | None], cache: Path | None
) -> Mapping[str, Any]:
    if (files[name] or 0) > _LARGEST_DOCUMENT:
        raise SpaceError(f"{name} of {repo_id} is too large to be one.")
    path = client.call(client.api.hf_hub_download, repo_id, name, revision=commit, cache_dir=cache)
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        raise SpaceError(f"{name} of {repo_id} cannot be read.", fix="Ask its owner to push it again.") from None
    return value if isinstance(value, dict) else {}


def _and(names: Sequence[str]) -> str:
    shown = [plain_line(name, longest=100) for name in names]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]
