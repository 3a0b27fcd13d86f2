"""The files of a Space: the app, its settings, its requirements, and hfplug itself.

hfplug is on no registry that a Space could install it from, so its sources go along as a folder beside ``app.py``; with
them the weights of the built-in base, if that is what the Space runs. Who has it elsewhere names a requirement instead.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import hfplug
from hfplug.errors import SpaceError
from hfplug.space.app_files import APP, app_folder
from hfplug.space.bases import commit_notes
from hfplug.space.config import BUILT_IN, CONFIG_FILE, PREFIX, REPO_ID, SpaceConfig, VariantSource
from hfplug.space.policy import look_at, parse_repo, resolve_report
from hfplug.space.space_card import CARD, render_space_card

REQUIREMENTS = "requirements.txt"
_APP_SUFFIXES = (".py", ".css", ".js", ".svg", ".txt")
_SOURCE_SUFFIXES = (".py", ".md", ".html", ".js", ".css", ".json", ".svg", ".txt", ".typed")
_BASE_SUFFIXES = (".json", ".safetensors", ".md")
_REQUIREMENT = re.compile(r"hfplug(\[[a-z, ]+\])? ?(==|>=|~=|@ ?)[^\s#;]{1,300}")


@dataclass(frozen=True)
class SpaceFiles:
    """What a Space is made of. Made by :func:`space_files`; nothing was sent.

    Attributes:
        config: Its settings, with every variant at one commit.
        files: Path in the repo to the bytes.
        notes: What whoever deploys should know.
    """

    config: SpaceConfig
    files: Mapping[str, bytes] = field(repr=False)
    notes: tuple[str, ...] = ()

    __hash__ = None  # type: ignore[assignment]  # it holds a mapping


def space_files(
    config: SpaceConfig, *, hfplug_requirement: str | None = None, hardware: str | None = None
) -> SpaceFiles:
    """Put the files of a Space together.

    Each variant's repo is looked at: it has to be an adapter of this base as safetensors, and is named by its commit.

    Args:
        config: What the Space shows; base and variants on the Hub, or the built-in base.
        hfplug_requirement: A line for ``requirements.txt``, such as ``hfplug==0.1.0``, instead of its sources.
        hardware: Suggested in the README.

    Raises:
        SpaceError: A variant or the base is a folder, which a Space cannot see; or the requirement is none.
        HfplugError: A variant is not there, or is no adapter of this base.
    """
    _refuse_folders(config)
    notes: list[str] = []
    pinned = dataclasses.replace(config, variants=tuple(_pinned(config, item, notes) for item in config.variants))
    files: dict[str, bytes] = {}
    for file in sorted(app_folder().iterdir()):
        if file.suffix in _APP_SUFFIXES and file.is_file():
            files[file.name] = file.read_bytes()
    pinned = _with_own_files(pinned, files)
    if hfplug_requirement is None:
        files |= dict(_sources(with_base="yes" if config.base == BUILT_IN else "no"))
    else:
        if not _REQUIREMENT.fullmatch(hfplug_requirement):
            raise SpaceError(
                f"{hfplug_requirement[:80]!r} is no requirement of hfplug.", fix="For example hfplug==0.1.0"
            )
        files[REQUIREMENTS] += hfplug_requirement.encode() + b"\n"
    values = {name: value for name, value in pinned.to_json().items() if name != "endpoint"}
    files[CONFIG_FILE] = (json.dumps(values, ensure_ascii=False, indent=2) + "\n").encode()
    files[CARD] = render_space_card(pinned, hardware=hardware).encode()
    if config.votes.endswith(".jsonl"):
        notes.append("Votes go to a file, which a Space loses when it restarts: name a dataset repo with --votes.")
    return SpaceFiles(pinned, files, tuple(notes))


def needed_secrets(config: SpaceConfig, given: Mapping[str, str]) -> tuple[str, ...]:
    """Notes about tokens that the Space will lack."""
    if REPO_ID.fullmatch(config.votes) and not {"HF_TOKEN", f"{PREFIX}VOTES_TOKEN"} & set(given):
        return (
            f"Votes go to {config.votes}: the Space needs a token that may write there,"
            f" --secret {PREFIX}VOTES_TOKEN, unless it has one already.",
        )
    return ()


def _refuse_folders(config: SpaceConfig) -> None:
    for variant in config.variants:
        folder = config.folder_of(variant)
        if folder is not None:
            there = folder if folder.is_dir() else variant.source
            raise SpaceError(
                f"Variant {variant.name!r} is {str(there)!r} on this machine, which a Space cannot see.",
                fix=f"Push it, then name its repo: hfplug push {there} OWNER/{variant.name}",
            )
    if config.base != BUILT_IN and (config.path(config.base).is_dir() or not _may_be_a_base(config.base)):
        raise SpaceError(
            f"The base {config.base!r} is a folder on this machine, which a Space cannot see.",
            fix="Push it, then pass its repo as --base OWNER/NAME.",
        )


def _may_be_a_base(name: str) -> bool:
    return bool(REPO_ID.fullmatch(name) or re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}", name))  # "gpt2" has no owner


def _pinned(config: SpaceConfig, variant: VariantSource, notes: list[str]) -> VariantSource:
    repo_id, revision = parse_repo(variant.source, variant.revision)
    found = look_at(config, repo_id, revision)
    notes += [f"{variant.name}: {note}" for note in (*found.notes, *commit_notes(found, config.revision))]
    if found.private == "yes":
        notes.append(f"{repo_id} is private: the Space needs a token that may read it, --secret HF_TOKEN.")
    return dataclasses.replace(variant, source=repo_id, revision=found.commit)


def _with_own_files(config: SpaceConfig, files: dict[str, bytes]) -> SpaceConfig:
    """The settings with report and examples of this machine as files of the Space."""
    if config.report is not None and not config.report.startswith("hf://"):
        report = resolve_report(config)
        assert report is not None
        files["report.json"] = report.read_bytes()
        config = dataclasses.replace(config, report="report.json")
    if config.examples is not None:
        from hfplug.space.examples import load_examples

        load_examples(config)
        source = config.path(config.examples)
        name = f"examples{source.suffix}"
        files[name] = source.read_bytes()
        config = dataclasses.replace(config, examples=name)
    return config


def _sources(*, with_base: str) -> Iterator[tuple[str, bytes]]:
    """The package's own files, as ``hfplug/…``."""
    package = Path(hfplug.__file__).absolute().parent
    base, app = package / "demo" / "base", package / "space" / "compare"
    for file in sorted(package.rglob("*")):
        if not file.is_file() or "__pycache__" in file.parts or app in file.parents:
            continue
        in_base = base in file.parents
        suffixes = _BASE_SUFFIXES if in_base else _SOURCE_SUFFIXES
        if file.suffix not in suffixes or (in_base and with_base == "no"):
            continue
        name = f"hfplug/{file.relative_to(package).as_posix()}"
        yield name, file.read_bytes()
    for licence in (package.parent / "LICENSE", *package.parent.glob("hfplug-*.dist-info/licenses/LICENSE")):
        if licence.is_file():
            yield "hfplug/LICENSE", licence.read_bytes()
            return


__all__ = ["APP", "REQUIREMENTS", "SpaceFiles", "needed_secrets", "space_files"]
