"""The variants of a service: which are known, which are in memory, which are in use, and what must go.

A name stands for a *version*. Loading a name again makes a new version; requests keep the one that they were asked
of, and the old version goes when the last of those is over.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.foreign import recipe_of
from hfplug.adapters.load import method_of
from hfplug.errors import ServingError, did_you_mean
from hfplug.serving.resident import BASE, MIXED, Attached, Resident

if TYPE_CHECKING:
    from hfplug.methods import Quantization

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class Version:
    """One variant as it was loaded once. Fields below the line are the shelf's, and change under its lock.

    Attributes:
        name: As askers call it.
        key: As the resident base calls it.
        resident: The base that it is on.
        folder: Where it is read from; None for the base.
        recipe: How its base is quantised, or None.
        options: Further arguments of ``Resident.attach``.
        stamp: Sizes and times of the folder's files, to notice that it is not the same any more.
        facts: What it was found to be when it was attached, without the model; None for the base.
        own_decoding: The model's own settings of ``generate``.
        in_memory: Whether it is attached now.
        users: Requests that wait for it or are being answered.
        passes: Passes that use it now; it is not taken out of memory meanwhile.
        used: When a pass last used it, in counts.
        retired: Whether another version, or none, has its name now.
    """

    name: str
    key: str
    resident: Resident
    folder: Path | None = None
    recipe: Quantization | None = None
    options: dict[str, Any] = field(default_factory=dict)
    stamp: tuple[Any, ...] = ()
    facts: Attached | None = None
    own_decoding: Any = None
    # ---
    in_memory: bool = True
    users: int = 0
    passes: int = 0
    used: int = 0
    retired: bool = False

    @property
    def held_bytes(self) -> int:
        """Memory that it needs beyond the base."""
        return self.facts.held_bytes if self.facts is not None else 0


@dataclass(frozen=True, kw_only=True)
class Held:
    """What came of holding versions for a pass.

    Attributes:
        present: In memory now, and kept there until they are released.
        later: For which there is no room beside ``present``.
        failed: Which could not be read again, with the reason.
    """

    present: tuple[Version, ...]
    later: tuple[Version, ...]
    failed: tuple[tuple[Version, Exception], ...]


class Shelf:
    """Versions by name, on one base in one or more number formats, within a limit in bytes.

    Args:
        load_resident: Loads the base in a number format; called once for each that is needed.
        variant_bytes: Memory for all versions together, or None.
    """

    def __init__(self, load_resident: Callable[[Quantization | None], Resident], variant_bytes: int | None) -> None:
        self._load_resident = load_resident
        self._limit = variant_bytes
        self._changed = threading.Condition()  # guards all that follows
        self._loading = threading.RLock()  # one thread at a time decides what comes and what goes
        self._residents: dict[Quantization | None, Resident] = {}
        self._current: dict[str, Version] = {}
        self._versions: list[Version] = []
        self._count = itertools.count(1)
        plain = self.resident(None)
        self._base = Version(name=BASE, key=BASE, resident=plain, own_decoding=plain.model.generation_config)

    # ----------------------------------------------------------------------------------------------- reading

    def resident(self, recipe: Quantization | None) -> Resident:
        """The base in a number format, loaded when it is first needed."""
        with self._loading:
            if recipe not in self._residents:
                made = self._load_resident(recipe)
                with self._changed:
                    self._residents[recipe] = made
            return self._residents[recipe]

    def residents(self) -> list[Resident]:
        """All that are in memory, the plain base first."""
        with self._changed:
            return list(self._residents.values())

    def all_current(self) -> list[Version]:
        """What each name stands for now, in the order of loading, without the base."""
        with self._changed:
            return list(self._current.values())

    def current(self, name: str) -> Version:
        """The version that a name stands for now.

        Raises:
            ServingError: There is none.
        """
        with self._changed:
            found = self._base if name == BASE else self._current.get(name)
            if found is None:
                known = [BASE, *self._current]
                hint = did_you_mean(str(name), known)
                raise ServingError(
                    f"There is no variant {name!r}.", fix=f"{hint} The variants are: {', '.join(known)}.".strip()
                )
            return found

    def held_bytes(self) -> dict[str, int]:
        """Bytes of each version in memory, by its key."""
        with self._changed:
            return {version.key: version.held_bytes for version in self._versions if version.in_memory}

    def group_of(self, version: Version) -> tuple[Any, str]:
        """Versions of which this is equal may share a pass."""
        if version.facts is None:
            return None, BASE
        # Not asked of the resident, as the version may be on disk now.
        return version.recipe, version.facts.group

    # ----------------------------------------------------------------------------------- coming and going

    def load(self, name: str, folder: str | Path, **options: Any) -> Version:
        """Make a new version of a name; from here on the name stands for it.

        Args:
            name: What to call it.
            folder: An adapter's folder.
            **options: Further arguments of ``Resident.attach``.

        Raises:
            HfplugError: It cannot be read, does not fit the base, or needs more memory than is allowed. What the
                name stood for before still stands.
        """
        _check_name(name)
        with self._loading:
            adapter = AdapterDir.open(folder)
            recipe = recipe_of(adapter, method_of(adapter))
            resident = self.resident(recipe)
            # What it will hold is known only when it is there; until then the size of its files has to do.
            self._make_room(min(adapter.weight_bytes, self._limit or 0), "yes")
            with self._changed:
                key = name if all(name != one.key for one in self._versions) else f"{name} ({next(self._count)})"
            stamp = _stamp(adapter)
            facts = resident.attach(key, adapter.path, **options)
            version = Version(
                name=name,
                key=key,
                resident=resident,
                folder=adapter.path,
                recipe=recipe,
                options=options,
                stamp=stamp,
                facts=_light(facts),
                own_decoding=facts.model.generation_config,
            )
            try:
                self._require_room(name, version.held_bytes)
            except ServingError:
                resident.detach(key)
                raise
            with self._changed:
                old = self._current.get(name)
                self._current[name] = version
                self._versions.append(version)
                version.used = next(self._count)
                if old is not None:
                    self._retire(old)
            self._forget_unused_bases()
            return version

    def unload(self, name: str) -> None:
        """Forget a name; requests that were made before are still answered.

        Raises:
            ServingError: There is none of that name, or it is the base.
        """
        with self._loading:
            with self._changed:
                if name == BASE:
                    raise ServingError("The base cannot be unloaded.", fix="Close the service.")
                version = self.current(name)
                del self._current[name]
                self._retire(version)
            self._forget_unused_bases()

    def enter(self, name: str) -> Version:
        """The version that a new request is for; it stays until :meth:`leave`.

        Raises:
            ServingError: There is none of that name.
        """
        with self._changed:
            version = self.current(name)
            version.users += 1
            return version

    def leave(self, version: Version) -> None:
        """A request for this version is over."""
        with self._changed:
            version.users -= 1
            self._drop_if_done(version)
            last = version.retired and version.users == 0
        if last and self._loading.acquire(blocking=False):  # else whoever loads sees to it
            try:
                self._forget_unused_bases()
            finally:
                self._loading.release()

    def hold(self, versions: Sequence[Version]) -> Held:
        """Bring versions into memory for a pass, and keep them there until they are released.

        Waits until there is room for the first of them; others that do not fit beside it are left for later.

        Args:
            versions: All different.
        """
        with self._changed:
            if all(version.in_memory for version in versions):
                for version in versions:
                    self._pin(version)
                return Held(present=tuple(versions), later=(), failed=())
        present: list[Version] = []
        later: list[Version] = []
        failed: list[tuple[Version, Exception]] = []
        with self._loading:
            for version in versions:
                try:
                    if not version.in_memory:
                        if present and not self._make_room(version.held_bytes, "no"):
                            later.append(version)
                            continue
                        self._bring_back(version)
                except Exception as error:  # a folder may hold anything by now
                    failed.append((version, error))
                    continue
                with self._changed:
                    self._pin(version)
                present.append(version)
        return Held(present=tuple(present), later=tuple(later), failed=tuple(failed))

    def release(self, versions: Iterable[Version]) -> None:
        """A pass is over."""
        with self._changed:
            for version in versions:
                version.passes -= 1
            self._changed.notify_all()

    # --------------------------------------------------------------------------------------------- parts

    def _pin(self, version: Version) -> None:
        version.passes += 1
        version.used = next(self._count)

    def _bring_back(self, version: Version) -> None:
        """Attach a version again, as soon as there is room."""
        self._require_room(version.name, version.held_bytes)
        assert version.folder is not None
        adapter = AdapterDir.open(version.folder)
        if _stamp(adapter) != version.stamp:
            raise ServingError(
                f"{version.name!r} had left memory for others, and its folder {str(version.folder)!r} has changed"
                " since.",
                fix=f"Load it again: service.load({version.name!r}, {str(version.folder)!r})",
            )
        facts = version.resident.attach(version.key, version.folder, **version.options)
        with self._changed:
            # The same tokenizer as before, which prompts that wait were made with.
            version.facts = dataclasses.replace(_light(facts), tokenizer=version.facts.tokenizer)  # type: ignore[union-attr]
            version.in_memory = True

    def _require_room(self, name: str, needed: int) -> None:
        if not self._make_room(needed, "yes"):
            raise ServingError(
                f"{name!r} needs {needed:,} bytes, and all variants together may hold {self._limit:,}.",
                fix="Raise Limits(variant_bytes=...).",
            )

    def _make_room(self, needed: int, wait: Literal["no", "yes"]) -> bool:
        """Take what was used least recently out of memory until ``needed`` bytes fit beside the rest."""
        if self._limit is None:
            return True
        if needed > self._limit:
            return False
        with self._changed:
            while True:
                there = [version for version in self._versions if version.in_memory]
                if sum(version.held_bytes for version in there) + needed <= self._limit:
                    return True
                idle = [version for version in there if version.passes == 0]
                if idle:
                    self._take_out(min(idle, key=lambda version: version.used))
                elif wait == "yes":
                    self._changed.wait()
                else:
                    return False

    def _take_out(self, version: Version) -> None:
        version.in_memory = False
        version.resident.detach(version.key)
        logger.info("%s left memory (%d bytes).", version.key, version.held_bytes)

    def _retire(self, version: Version) -> None:
        version.retired = True
        self._drop_if_done(version)

    def _drop_if_done(self, version: Version) -> None:
        if version.retired and version.users == 0 and version in self._versions:
            self._versions.remove(version)
            if version.in_memory:
                self._take_out(version)
            self._changed.notify_all()

    def _forget_unused_bases(self) -> None:
        """Let go of the base in a number format that no version needs any more. Only while loading is locked."""
        with self._changed:
            needed = {None, *(version.recipe for version in self._versions)}
            for recipe in [recipe for recipe in self._residents if recipe not in needed]:
                del self._residents[recipe]


def _check_name(name: str) -> None:
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > 100:
        raise ServingError(
            f"A variant's name is 1 to 100 printable characters, not {name!r}.", fix="Pass a short name."
        )
    if name.lower() in (BASE, MIXED):
        raise ServingError(f"The name {name!r} is taken.", fix="Pass another name.")


def _stamp(adapter: AdapterDir) -> tuple[Any, ...]:
    """What changes when a folder's adapter does: names, sizes and times of its files."""
    stats = [(file.name, file.stat()) for file in adapter.files()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def _light(attached: Attached) -> Attached:
    """The same without the model, so that remembering it holds no memory."""
    return dataclasses.replace(attached, model=nn.Module())
