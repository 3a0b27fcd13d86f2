"""What one comparison Space shows and allows: a JSON file, each key of which an environment variable may override.

Nothing is needed to start: without a file the Space runs offline, on the built-in base, with the adapters that
``hfplug demo`` left in ``./hfplug-demo`` if they are there. Secrets are no settings: tokens are read from the
environment when they are needed, and a file that holds one is refused.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfplug.errors import SpaceError, did_you_mean
from hfplug.space.config_parts import (
    KEYS,
    NAME,
    REPO_ID,
    REVISION,
    SpaceLimits,
    Switch,
    VariantSource,
    limits_of,
    parse_variant,
    refuse_secrets,
    whole_number,
)

__all__ = [
    "NAME", "REPO_ID", "REVISION", "SpaceConfig", "SpaceLimits", "Switch", "VariantSource", "checked", "from_mapping",
    "parse_variant", "read_config", "refuse_secrets",
]  # fmt: skip

BUILT_IN = "built-in"
CONFIG_FILE = "space.json"
PREFIX = "HFPLUG_SPACE_"
# Variables of ours that are no keys of the file: where the file is, and the token that delivers votes.
OTHER_VARIABLES = ("CONFIG", "VOTES_TOKEN")
DEMO = Path("hfplug-demo") / "study"
_LARGEST_FILE = 1 << 20
_MOST_VARIANTS = 16


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """The settings of one Space. Made by :func:`read_config`.

    Attributes:
        title: Heading of the page.
        base: Repo id or folder of the base, or ``"built-in"``.
        revision: Branch, tag or commit of the base.
        variants: The columns beside the base, in their order.
        report: A study's folder or ``report.json``, or a repo with one (``hf://datasets/OWNER/NAME`` or
            ``hf://OWNER/NAME``); None for no second tab.
        examples: A JSON or JSON lines file of dialogues, or None for those that come with hfplug.
        add_adapters: Whether visitors may add adapters by repo id.
        allowed_owners: Users and organisations whose adapters they may add; empty for all.
        allowed_bases: Further names that the same base goes by: a mirror's, or its id where ``base`` is a folder.
        limits: How much a visitor may ask for.
        votes: ``"off"``, a file that ends in ``.jsonl``, or a dataset repo ``owner/name``.
        votes_text: Whether a vote keeps the dialogue and the answers. Off unless asked for: they are people's words.
        votes_folder: Where votes wait until a dataset repo has taken them.
        endpoint: Address of the Hub, or None for that of ``HF_ENDPOINT``.
        folder: Of the file that it was read from: what relative paths start at.
    """

    title: str = "One base, every adapter"
    base: str = BUILT_IN
    revision: str | None = None
    variants: tuple[VariantSource, ...] = ()
    report: str | None = None
    examples: str | None = None
    add_adapters: Switch = "on"
    allowed_owners: tuple[str, ...] = ()
    allowed_bases: tuple[str, ...] = ()
    limits: SpaceLimits = field(default_factory=SpaceLimits)
    votes: str = "off"
    votes_text: Switch = "off"
    votes_folder: str = "votes"
    endpoint: str | None = None
    folder: Path = field(default_factory=Path.cwd, compare=False, repr=False)

    @property
    def shows_demo(self) -> bool:
        """Whether the report is that of ``hfplug demo`` in this folder."""
        return self.report == str(self.folder / DEMO)

    @property
    def base_source(self) -> str:
        """What to give to ``Service``: the built-in base's folder, a folder, or a repo id."""
        if self.base == BUILT_IN:
            from hfplug.demo.base import base_path

            return str(base_path())
        inside = self.path(self.base)
        return str(inside) if inside.is_dir() else self.base

    def path(self, name: str) -> Path:
        """A path of the settings, as seen from their file."""
        return (self.folder / Path(name).expanduser()).absolute()

    def folder_of(self, variant: VariantSource) -> Path | None:
        """The folder of a variant, or None for a repo. A folder that is there wins over a repo of the same name."""
        inside = self.path(variant.source)
        return None if not inside.is_dir() and REPO_ID.fullmatch(variant.source) else inside

    def to_json(self) -> dict[str, Any]:
        """Values for ``space.json``, without those that are as they would be anyway."""
        plain = SpaceConfig(folder=self.folder)
        values: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name == "folder" or (value == getattr(plain, item.name) and item.name not in ("base", "title")):
                continue
            values[item.name] = list(value) if isinstance(value, tuple) else value
        if self.variants:
            values["variants"] = [_without_none(dataclasses.asdict(variant)) for variant in self.variants]
        if self.limits != plain.limits:
            own, usual = dataclasses.asdict(self.limits), dataclasses.asdict(plain.limits)
            values["limits"] = {name: value for name, value in own.items() if value != usual[name]}
        return values


def read_config(path: str | Path | None = None, *, environment: Mapping[str, str] | None = None) -> SpaceConfig:
    """The settings of a Space: its file, and over it the environment.

    Args:
        path: ``space.json``, or a folder that holds one. None for what ``HFPLUG_SPACE_CONFIG`` names, else for
            ``space.json`` in the current folder, else for the built-in base and the demo's adapters if they are there.
        environment: Instead of ``os.environ``. ``HFPLUG_SPACE_TITLE`` overrides ``title``, and so on;
            ``HFPLUG_SPACE_VARIANTS`` is ``name=source[@revision]``, separated by spaces or commas;
            ``HFPLUG_SPACE_MAX_NEW_TOKENS`` and the other limits go without ``LIMITS``.

    Raises:
        SpaceError: There is no such file, it is no JSON, a key is unknown or of the wrong kind, it holds a token, or a
            variable is unknown.
    """
    variables = dict(os.environ if environment is None else environment)
    named = path or variables.get(f"{PREFIX}CONFIG") or None
    file = _find_file(named)
    values = _read_file(file) if file else {}
    folder = file.parent.absolute() if file else Path.cwd()
    given = from_mapping(values, folder=folder, where=str(file or "the settings"))
    changed = _from_environment(variables)
    config = dataclasses.replace(given, **changed)
    if "limits" in changed:
        config = dataclasses.replace(config, limits=dataclasses.replace(given.limits, **changed["limits"]))
    if not file and "base" not in changed and "variants" not in changed:
        config = _with_demo(config)
    return checked(config)


def from_mapping(values: Mapping[str, Any], *, folder: Path, where: str = "the settings") -> SpaceConfig:
    """Settings from JSON values, checked.

    Args:
        values: As in ``space.json``.
        folder: What relative paths start at.
        where: How to call their source in a message.

    Raises:
        SpaceError: As :func:`read_config`.
    """
    refuse_secrets(dict(values), f"{where[0].upper()}{where[1:]}")
    known = [*KEYS]
    for name in values:
        if name not in known:
            guess = did_you_mean(str(name), known)
            raise SpaceError(
                f"{where} has the key {str(name)[:60]!r}, which there is not.",
                fix=guess or f"The keys are {', '.join(known)}.",
            )
    found = {name: KEYS[name](value, f"{name!r} in {where}") for name, value in values.items()}
    limits = SpaceLimits(**found.pop("limits", {}))
    return checked(SpaceConfig(**found, limits=limits, folder=folder))


# --------------------------------------------------------------------------------------------------- file


def _find_file(named: str | Path | None) -> Path | None:
    if named is None:
        return Path(CONFIG_FILE) if Path(CONFIG_FILE).is_file() else None
    file = Path(named).expanduser()
    file = file / CONFIG_FILE if file.is_dir() else file
    if not file.is_file():
        raise SpaceError(f"There is no file {str(file)!r}.", fix="Pass the space.json that describes the Space.")
    return file


def _read_file(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise SpaceError(f"{str(file)!r} has more than 1 MB.", fix="Pass the space.json that describes the Space.")
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpaceError(f"{str(file)!r} cannot be read as JSON: {error}.", fix="Correct it by hand.") from None
    if not isinstance(values, dict):
        raise SpaceError(f"{str(file)!r} must hold a JSON object, not a {type(values).__name__}.")
    return values


def _with_demo(config: SpaceConfig) -> SpaceConfig:
    """The adapters of ``hfplug demo``, if it ran in this folder."""
    study = config.folder / DEMO
    adapters = study / "adapters"
    found = sorted(path.name for path in adapters.iterdir() if path.is_dir()) if adapters.is_dir() else []
    names = [name for name in found if NAME.fullmatch(name) and _is_adapter(adapters / name)]
    # Fully tuned first, as in the study's own table.
    names.sort(key=lambda name: (name != "full", name))
    variants = tuple(VariantSource(name=name, source=str(adapters / name)) for name in names)
    report = str(study) if (study / "report.json").is_file() else None
    return dataclasses.replace(config, variants=variants, report=config.report or report)


def _is_adapter(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("adapter_config.json", "config.json"))


def checked(config: SpaceConfig) -> SpaceConfig:
    """The same settings, if they go together.

    Raises:
        SpaceError: Two variants have one name, or there are too many.
    """
    names = [variant.name for variant in config.variants]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise SpaceError(f"Two variants are called {twice[0]!r}.", fix="Give each a name of its own.")
    if len(names) > _MOST_VARIANTS:
        raise SpaceError(f"A Space shows at most {_MOST_VARIANTS} variants, not {len(names)}.", fix="Leave some out.")
    return config


# -------------------------------------------------------------------------------------------- environment


def _from_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    limits = [item.name for item in dataclasses.fields(SpaceLimits)]
    known = {name.upper(): name for name in [*KEYS, *limits] if name != "limits"}
    found: dict[str, Any] = {}
    for variable, text in sorted(variables.items()):
        short = variable.removeprefix(PREFIX)
        if short == variable or short in OTHER_VARIABLES or not text.strip():
            continue
        name = known.get(short)
        if name is None:
            guess = did_you_mean(variable, [f"{PREFIX}{other}" for other in (*known, *OTHER_VARIABLES)])
            raise SpaceError(f"There is no setting {variable[:80]}.", fix=guess or "Unset it.")
        refuse_secrets(text, variable)
        if name in limits:
            found.setdefault("limits", {}).update(limits_of({name: whole_number(text, variable)}, variable))
        elif name == "variants":
            found[name] = tuple(parse_variant(item) for item in re.split(r"[,\s]+", text.strip()) if item)
        else:
            many = name in ("allowed_owners", "allowed_bases")
            found[name] = KEYS[name](re.split(r"[,\s]+", text.strip(" ,")) if many else text, variable)
    return found


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
