"""Pull an adapter: one commit of a repo, its allow-list of files, checked before anybody loads it.

1. The revision is resolved to a commit first. A Hub that says that the repo is not there, not yours or gated is
   believed: the cache is never served instead. (The client's own downloads do that without a word.)
2. The files of that commit go into huggingface_hub's cache, each by its commit, so that they are all of one state and
   a second pull asks for nothing but the commit.
3. What is in the folder then is read as any adapter is: no pickle, no path that leaves it, no foreign code; the
   weights are compared with the Hub's sums and with those in the lock.

Without a network the commit is the one that the cache knows for the revision, and the log says which and why.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hfplug.adapters import atomic
from hfplug.adapters import files as adapter_files
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.files import CONFIG, OURS, SHARD, TOKENIZER, WEIGHTS, WEIGHTS_INDEX, file_sha256, is_allowed
from hfplug.errors import AdapterError, HubError, HubUnavailableError, UnsafeFileError
from hfplug.hub.address import parse_address
from hfplug.hub.client import HubClient, connect, translated
from hfplug.hub.retry import retrying

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

MAIN = "main"
TIMEOUT_SECONDS = 15.0
_TRIES = 3
_FIRST_WAIT_SECONDS = 0.5
_COMMIT = re.compile(r"[0-9a-f]{40}")
Offline = Literal["auto", "on"]


@dataclass(frozen=True)
class Pulled:
    """An adapter that was pulled.

    Attributes:
        adapter: Its files; ``adapter.path`` is the folder.
        repo_id: The repo, or None for a folder.
        commit: The commit that the files are of, or None for a folder.
        source: ``"hub"``: the Hub was asked just now. ``"cache"``: it was not, or could not be. ``"folder"``: it was a
            folder all along.
        note: Why it came from the cache; else None.
    """

    adapter: AdapterDir
    repo_id: str | None
    commit: str | None
    source: Literal["hub", "cache", "folder"]
    note: str | None = None


def pull_adapter(
    repo_id: str | Path,
    *,
    revision: str | None = None,
    out: str | Path | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    offline: Offline = "auto",
    cache_dir: str | Path | None = None,
) -> Pulled:
    """Fetch one commit of an adapter, made with hfplug or not, and check its files.

    Args:
        repo_id: ``"owner/name"`` or ``"owner/name@revision"``, either with ``hf://`` before it, or a folder. A folder
            that is there wins over a repo of the same name.
        revision: Branch, tag or commit; None for the default branch.
        out: A folder to copy the adapter to, in one step. What is there already must be an adapter; another one is
            kept beside it.
        token: Access token; that of ``HF_TOKEN`` or ``hf auth login`` if not given.
        endpoint: Address of the Hub; that of ``HF_ENDPOINT`` if not given.
        offline: ``"on"`` asks no Hub. ``"auto"`` takes the cache only where no Hub can be reached, or
            ``HF_HUB_OFFLINE`` is set.
        cache_dir: Instead of the cache of ``HF_HUB_CACHE``.

    Returns:
        The adapter, its commit, and where it came from.

    Raises:
        HubNotFoundError, HubAccessError: There is no such repo or revision, it is not yours, or it is gated.
        HubUnavailableError: The Hub cannot be reached, and the cache does not hold it.
        AdapterError: The repo holds no adapter, or a file is damaged or was changed since it was exported.
        UnsafeFileError: Its weights are a pickle, or it asks for code to be run.
    """
    name, revision = parse_address(repo_id, revision)
    if name is None:
        pulled = Pulled(AdapterDir.open(repo_id), None, None, "folder")
    else:
        cache = _Cache.of(name, cache_dir)
        why = _why_offline(offline)
        pulled = _from_cache(cache, revision, why) if why else _from_hub(cache, revision, connect_to(endpoint, token))
    _check(pulled)
    return pulled if out is None else replace(pulled, adapter=_copy(pulled.adapter, out))


def load_from_hub(
    repo_id: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    offline: Offline = "auto",
    cache_dir: str | Path | None = None,
    base_token: str | None = None,
    **load: Any,
) -> nn.Module:
    """Pull an adapter and load it with its base.

    The base is read by transformers: from ``HF_ENDPOINT`` as it was when the program started, or from its cache.

    Args:
        repo_id, revision, token, endpoint, offline, cache_dir: As for :func:`pull_adapter`. ``token`` also opens a
            private base if that is asked for at the same Hub. ``offline="on"`` goes for the base too.
        base_token: Access token for a private base.
        load: As for ``hfplug.load_adapter``: ``base``, ``dtype``, ``device``, ``verify``, …

    Returns:
        The model in eval mode, as ``hfplug.load_adapter`` returns it.

    Raises:
        HfplugError: As :func:`pull_adapter` and ``hfplug.load_adapter`` do.
    """
    from hfplug.adapters.load import load_adapter

    places: dict[str, Any] = {"token": token, "endpoint": endpoint, "offline": offline, "cache_dir": cache_dir}
    pulled = pull_adapter(repo_id, revision=revision, **places)
    own = _token_of_base(token, endpoint) if base_token is None else base_token
    return load_adapter(pulled.adapter.path, token=own, offline=offline, **load)


def _token_of_base(token: str | None, endpoint: str | None) -> str | None:
    """The token, but only for the Hub that it was given for: transformers asks its own one for the base."""
    from huggingface_hub import constants

    if not token or connect_to(endpoint, token).endpoint == constants.ENDPOINT.rstrip("/"):
        return token
    logger.info("The token is for %s; pass base_token if the base at %s needs one.", endpoint, constants.ENDPOINT)
    return None


def connect_to(endpoint: str | None, token: str | None) -> HubClient:
    """A client that does not wait long: whoever pulls is sitting in front of it."""
    return connect(endpoint, token, timeout=TIMEOUT_SECONDS)


# ----------------------------------------------------------------------------------------------------- hub


def _from_hub(cache: _Cache, revision: str | None, client: HubClient) -> Pulled:
    try:
        info = _ask(client, cache.repo_id, client.api.model_info, revision=revision, files_metadata=True)
        if info.gated:
            # Whoever may look at the description may not read the files, nor a cached copy of them.
            _ask(client, cache.repo_id, client.api.auth_check)
    except HubUnavailableError as error:
        return _from_cache(cache, revision, f"the Hub did not answer ({error.message.rstrip('.')})", unavailable=error)
    except HubError as error:
        raise _with_cached(error, cache, revision) from None
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise AdapterError(f"{client.endpoint} gives {commit!r} as the commit.", fix="Check HF_ENDPOINT.")
    files = {item.rfilename: item for item in info.siblings or ()}
    wanted = wanted_files(set(files), cache.repo_id)
    for name in wanted:
        size = files[name].size or 0
        got = _ask(
            client,
            cache.repo_id,
            client.api.hf_hub_download,
            filename=name,
            revision=commit,
            cache_dir=cache.root,
            seconds=client.upload_seconds(size),
        )
        if Path(got) != cache.snapshot(commit) / name:
            raise AdapterError(f"{client.endpoint} gave another commit of {name}.", fix="Pull again.")
    for name in wanted:
        _check_sum(cache.snapshot(commit) / name, files[name])
    cache.remember(revision or MAIN, commit)
    return Pulled(AdapterDir.open(cache.snapshot(commit)), cache.repo_id, commit, "hub")


def _ask(client: HubClient, repo_id: str, call: Any, *, seconds: float | None = None, **kwargs: Any) -> Any:
    def once() -> Any:
        with translated("pull", repo_id, client=client):
            return client.call(call, repo_id=repo_id, seconds=seconds, **kwargs)

    return retrying(once, tries=_TRIES, first_wait=_FIRST_WAIT_SECONDS, longest_wait=TIMEOUT_SECONDS)


def wanted_files(names: set[str], repo_id: str) -> list[str]:
    """What of a repo belongs to its adapter, small files first.

    Raises:
        UnsafeFileError: Its weights are there as a pickle only.
        AdapterError: It holds no adapter.
    """
    allowed = {name for name in names if is_allowed(name)}
    if CONFIG["peft"] in names:
        needed, pickles = {CONFIG["peft"], WEIGHTS["peft"]}, {"adapter_model.bin"}
    elif CONFIG["full"] in names:
        whole = WEIGHTS["full"] in names
        shards = {WEIGHTS_INDEX, *(name for name in allowed if SHARD.fullmatch(name))}
        needed = {CONFIG["full"], *({WEIGHTS["full"]} if whole else shards)}
        pickles = {name for name in names if re.fullmatch(r"pytorch_model.*\.bin", name)}
    else:
        inner = sorted(name.rpartition("/")[0] for name in names if name.endswith("/adapter_config.json"))
        fix = f"There is one in its folder {inner[0]!r}: ask its owner for a repo of its own." if inner else None
        raise AdapterError(f"{repo_id} holds no adapter: neither adapter_config.json nor config.json.", fix=fix)
    if missing := sorted(needed - names):
        adapter_files.refuse_adapterhub_names(names, repo_id)
        if pickles & names:
            raise UnsafeFileError(
                f"{repo_id} holds its weights only as {sorted(pickles & names)[0]}, a pickle, which can run code when"
                " it is read. It was not downloaded.",
                fix="Ask its owner to load it and call save_pretrained with a current version of PEFT, which writes"
                " safetensors; https://huggingface.co/spaces/safetensors/convert does it as well.",
            )
        raise AdapterError(f"{repo_id} lacks {', '.join(missing)}.", fix="Ask its owner to push it again.")
    others = {name for name in allowed if name in OURS | TOKENIZER | {"generation_config.json"} or "/" in name}
    return [*sorted(others | needed - {*WEIGHTS.values()}), *sorted(needed & {*WEIGHTS.values()})]


def _check_sum(file: Path, entry: Any) -> None:
    """Compare a file with the Hub's own sum, also one that was in the cache before.

    Of a large file the Hub says the SHA-256, of a small one the name that git gives it.
    """
    expected = (entry.lfs or {}).get("sha256") if isinstance(entry.lfs, dict) else getattr(entry.lfs, "sha256", None)
    if expected:
        is_same = file_sha256(file) == expected
    else:
        named = str(entry.blob_id or "")
        is_same = not _COMMIT.fullmatch(named) or _git_name(file.read_bytes()) == named
    if not is_same:
        raise AdapterError(
            f"{file} is not what the Hub holds: it was damaged on the way, or in the cache.",
            fix=f"Delete {file.resolve()} and pull again.",
        )


def _git_name(data: bytes) -> str:
    """The name of a blob in git: SHA-1 of a heading and the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def _with_cached(error: HubError, cache: _Cache, revision: str | None) -> HubError:
    """The same error, saying that there is a copy and that it was not used."""
    commit = cache.commit_of(revision)
    if commit is None:
        return error
    told = f"A copy of commit {commit} is in the cache and was not used; offline='on' takes it all the same."
    fix = f"{str(error)[len(error.message) :].strip()} {told}".strip()
    return type(error)(error.message, fix=fix, status=error.status, retry_after=error.retry_after)


# --------------------------------------------------------------------------------------------------- cache


@dataclass(frozen=True)
class _Cache:
    """Where huggingface_hub keeps one repo."""

    repo_id: str
    root: Path

    @classmethod
    def of(cls, repo_id: str, root: str | Path | None) -> _Cache:
        from huggingface_hub import constants

        return cls(repo_id, Path(root or constants.HF_HUB_CACHE).expanduser())

    @property
    def folder(self) -> Path:
        return self.root / f"models--{self.repo_id.replace('/', '--')}"

    def snapshot(self, commit: str) -> Path:
        return self.folder / "snapshots" / commit

    def commit_of(self, revision: str | None) -> str | None:
        """The commit that the cache knows for a revision."""
        name = revision or MAIN
        if _COMMIT.fullmatch(name):
            return name if self.snapshot(name).is_dir() else None
        reference = self.folder / "refs" / name
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else ""
        return commit if _COMMIT.fullmatch(commit) and self.snapshot(commit).is_dir() else None

    def remember(self, revision: str, commit: str) -> None:
        """Note which commit a revision stood for, where the client looks for it too."""
        if _COMMIT.fullmatch(revision):
            return
        reference = self.folder / "refs" / revision
        try:
            reference.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_text(reference, commit)
        except OSError as error:  # a cache that may only be read
            logger.info("The cache at %s cannot note the commit of %s: %s", self.root, revision, error)


def _why_offline(offline: str) -> str | None:
    from huggingface_hub import constants

    if offline not in ("auto", "on"):
        raise AdapterError(f"offline must be 'auto' or 'on', not {offline!r}.")
    if offline == "on":
        return "offline='on'"
    return "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else None


def _from_cache(
    cache: _Cache, revision: str | None, why: str, *, unavailable: HubUnavailableError | None = None
) -> Pulled:
    commit = cache.commit_of(revision)
    if commit is None:
        snapshots = cache.folder / "snapshots"
        held = sorted(path.name for path in snapshots.iterdir()) if snapshots.is_dir() else []
        known = f" It holds the commits {', '.join(held)}: pass one as revision." if held else ""
        raise HubUnavailableError(
            f"{cache.repo_id} at revision {revision or MAIN!r} is not in the cache ({cache.root}), and {why}.{known}",
            fix="Go online and pull it once.",
            status=unavailable.status if unavailable else None,
            retry_after=unavailable.retry_after if unavailable else None,
        )
    note = f"{cache.repo_id}: commit {commit} from the cache, for {why}; whether it is the newest is not known."
    logger.warning("%s", note)
    try:
        adapter = AdapterDir.open(cache.snapshot(commit))
    except UnsafeFileError:
        raise
    except AdapterError as error:
        raise AdapterError(
            f"The cached copy of {cache.repo_id} at commit {commit} is not whole: {error.message}",
            fix="Go online and pull it again.",
        ) from error
    return Pulled(adapter, cache.repo_id, commit, "cache", note)


# --------------------------------------------------------------------------------------------------- files


def _check(pulled: Pulled) -> None:
    from hfplug.adapters.fit import check_files, check_finite  # torch

    check_files(pulled.adapter)
    check_finite(pulled.adapter)


def _copy(adapter: AdapterDir, out: str | Path) -> AdapterDir:
    """The same files in a folder of the user's."""
    place = Path(out).expanduser()
    if place.resolve() == adapter.path.resolve():
        return adapter
    file = adapter.path / "README.md"
    card = file.read_text("utf-8", errors="replace") if file.is_file() else None  # by anybody, in any encoding
    return AdapterDir.write(place, source=adapter.path, card=card)
