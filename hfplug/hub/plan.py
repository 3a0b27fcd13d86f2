"""What a push would change in a repo: which files are added and which deleted. Nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hfplug.adapters.card_merge import merge_card
from hfplug.adapters.files import CARD, CONFIG, OURS, PICKLES, SHARD, TOKENIZER, WEIGHTS, WEIGHTS_INDEX
from hfplug.errors import AdapterError, HubConflictError
from hfplug.hub.parcel import Parcel, front_matter
from hfplug.hub.remote import Head, git_blob


@dataclass(frozen=True)
class Plan:
    """What one commit has to do.

    Attributes:
        add: Path in the repo to the bytes or the file.
        delete: Paths in the repo.
        notes: What whoever pushes should know.
    """

    add: Mapping[str, bytes | Path] = field(repr=False)
    delete: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    __hash__ = None  # type: ignore[assignment]  # it holds a mapping

    @property
    def empty(self) -> bool:
        """Whether the repo holds everything already."""
        return not self.add and not self.delete

    @property
    def size(self) -> int:
        """Bytes to be sent."""
        return sum(len(item) if isinstance(item, bytes) else item.stat().st_size for item in self.add.values())


def make_plan(parcel: Parcel, head: Head, card: bytes | None, *, repo_id: str) -> Plan:
    """What has to be changed at ``head`` so that the repo holds the parcel.

    Args:
        parcel: What is pushed.
        head: What is there. Files that are none of an adapter's are left alone.
        card: The README that is there, to be merged with.
        repo_id: For messages.

    Raises:
        HubConflictError: The repo holds an adapter and the parcel a full model, or the other way round.
    """
    _check_kind(parcel, head, repo_id)
    notes: list[str] = []
    add: dict[str, bytes | Path] = {}
    for name, total in parcel.files.items():
        there = head.files.get(name)
        if name == CARD:
            merged = _merge((parcel.folder / name).read_bytes(), card, notes)
            if merged is not None and (card is None or git_blob(merged) != git_blob(card)):
                add[name] = merged
        elif there is None or not there.holds(parcel.folder / name, total):
            add[name] = parcel.folder / name
    delete = tuple(name for name in sorted(head.files) if name not in parcel.files and _is_stale(name, parcel))
    if delete:
        notes.append(f"Taken out, for they belong to what was there before: {', '.join(delete)}.")
    notes += _what_stays(parcel, head, repo_id)
    return Plan(add, delete, tuple(notes))


def _merge(ours: bytes, theirs: bytes | None, notes: list[str]) -> bytes | None:
    if theirs is None:
        return ours
    try:
        merged = merge_card(theirs.decode("utf-8"), ours.decode("utf-8"))
    except (AdapterError, UnicodeDecodeError) as error:
        # What a person wrote there is theirs; the adapter arrives anyway.
        notes.append(f"The README on the Hub is left as it is: {error}")
        return None
    wanted, stays = (front_matter(text).get("license") for text in (ours.decode("utf-8"), merged))
    if wanted and wanted != stays:
        notes.append(f"The README on the Hub says license: {stays}, which stays; you asked for {wanted}.")
    return merged.encode()


def _check_kind(parcel: Parcel, head: Head, repo_id: str) -> None:
    holds_adapter = CONFIG["peft"] in head.files
    holds_model = CONFIG["full"] in head.files and any(
        name == WEIGHTS["full"] or name == WEIGHTS_INDEX or SHARD.fullmatch(name) or name.startswith("pytorch_model")
        for name in head.files
    )
    fix = "Push to another name."
    if parcel.kind == "peft" and holds_model and not holds_adapter:
        raise HubConflictError(f"{repo_id} holds a full model; this is an adapter.", fix=fix)
    if parcel.kind == "full" and holds_adapter:
        # transformers would load that adapter onto the model without a word.
        raise HubConflictError(f"{repo_id} holds an adapter; this is a full model.", fix=fix)


def _is_stale(name: str, parcel: Parcel) -> bool:
    """Whether a file there is part of what the parcel replaces, and would be read beside it."""
    if name in OURS - {CARD}:
        return True  # a lock or a record of other weights
    if parcel.kind == "full" and (name in (WEIGHTS["full"], WEIGHTS_INDEX) or SHARD.fullmatch(name)):
        return True
    # Half of an old tokenizer would be mixed into the new one.
    return name in TOKENIZER and any(own in TOKENIZER for own in parcel.files)


def _what_stays(parcel: Parcel, head: Head, repo_id: str) -> list[str]:
    notes = []
    pickles = [name for name in sorted(head.files) if Path(name).suffix.lower() in PICKLES]
    if pickles:
        notes.append(
            f"{repo_id} still holds {', '.join(pickles)}: pickles, which can run code when they are read."
            f" To delete them: hf repos delete-files {repo_id} {' '.join(pickles)}"
        )
    tokenizer = [name for name in sorted(head.files) if name in TOKENIZER]
    if parcel.kind == "peft" and tokenizer and not any(own in TOKENIZER for own in parcel.files):
        notes.append(f"{repo_id} still holds tokenizer files; this adapter brings none ({', '.join(tokenizer)}).")
    return notes
