"""Folders for other engines: an adapter for vLLM or for plain PEFT, or merged into a whole model.

What is exported is checked first, and refused with what to do where the engine would not take it. The folder is built
beside its place and put there in one step, and nothing that lies there already is overwritten.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hfplug.adapters import atomic
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.card import merge_card, render_card
from hfplug.adapters.card_front import auto_class, has_form_of_id, is_hub_id
from hfplug.adapters.card_use import plain_code
from hfplug.adapters.files import CARD, TOKENIZER, refuse_taken
from hfplug.adapters.fit import check_files, check_finite
from hfplug.adapters.load import find_base
from hfplug.adapters.merge import Check, Into, Merged, is_of_peft, merge_adapter
from hfplug.adapters.record import scrub
from hfplug.errors import AdapterError, MethodError, did_you_mean
from hfplug.hub.parcel import pack
from hfplug.serving.even_ranks import even_ranks
from hfplug.serving.vllm import check_vllm, serve_command

ENGINES = ("vllm", "peft", "merged")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was exported.

    Attributes:
        folder: The folder.
        engine: ``"vllm"``, ``"peft"`` or ``"merged"``.
        command: What serves it: a command for ``vllm``, and for a merged model that vLLM takes; else Python.
        language: ``"shell"`` or ``"python"``.
        notes: What whoever serves it should know.
        merged: How it was merged and how far its answers are off; None for the others.
    """

    folder: Path
    engine: str
    command: str
    language: Literal["shell", "python"]
    notes: tuple[str, ...] = ()
    merged: Merged | None = None


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What was asked for."""

    out: Path
    base: str | Path | None
    revision: str | None
    dtype: str
    into: Into
    check: Check
    name: str
    places: dict[str, Any]  # how the base is found: token, offline, trust_remote_code


def export_adapter(
    adapter: AdapterDir | str | os.PathLike[str],
    engine: str,
    out: str | os.PathLike[str],
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    into: Into = "unquantised",
    check: Check = "logits",
    name: str | None = None,
    token: str | None = None,
    offline: Literal["auto", "on"] = "auto",
    trust_remote_code: bool = False,
) -> Exported:
    """Write an adapter's folder for another engine, and say what serves it.

    Args:
        adapter: An adapter's folder. It is only read. One on a Hub is pulled first (``hfplug.pull_adapter``).
        engine: ``"vllm"``: a LoRA that vLLM loads beside its base; ``"peft"``: a folder that plain
            ``PeftModel.from_pretrained`` takes, without places of this machine; ``"merged"``: a whole model of
            transformers, see ``hfplug.merge_adapter``.
        out: The new folder. It may not exist, or be empty.
        base: Repo id or folder of the base, if it is not where it was, or if others know it by that id.
        revision: Commit of the base, if it is not the one that the adapter names.
        dtype: Number format of the weights: ``"float32"`` or ``"bfloat16"`` (merged: ``"float16"`` too); as they are
            for ``"auto"``.
        into: For ``merged``, as for ``hfplug.merge_adapter``.
        check: For ``merged``: ``"logits"`` compares the answers afterwards, ``"off"`` does not.
        name: What requests to vLLM call it; that of the folder if not given.
        token: Access token for a private or gated base.
        offline: ``"on"`` asks no Hub for the base: the cache only.
        trust_remote_code: Run modelling code from the base's repo.

    Raises:
        MethodError: The engine does not take this method or this base; the message says what to do instead.
        AdapterError: ``out`` is taken, the adapter is damaged or is a fully tuned model, or there is no such engine.
        BaseModelError: The base cannot be found.
        MismatchError: The merged model gives other answers than base and adapter.
    """
    writers: dict[str, Callable[[AdapterDir, _Wish], Exported]] = {
        "vllm": _export_vllm,
        "peft": _export_peft,
        "merged": _export_merged,
    }
    if engine not in writers:
        guess = did_you_mean(str(engine), ENGINES)
        raise AdapterError(
            f"There is no export for {engine!r}.", fix=f"{guess} Pass one of: {', '.join(ENGINES)}.".strip()
        )
    adapter = adapter if isinstance(adapter, AdapterDir) else AdapterDir.open(adapter)
    place = Path(os.path.realpath(out))
    refuse_taken(place)
    if adapter.kind == "full":
        raise MethodError(
            f"{adapter.path} holds a fully tuned model: it is a whole model already, and needs no export.",
            fix=f"Use that folder as it is: {auto_class(adapter)}.from_pretrained({str(adapter.path)!r})",
        )
    wish = _Wish(
        out=place,
        base=base,
        revision=revision,
        dtype=dtype,
        into=into,
        check=check,
        name=name or re.sub(r"[^\w.-]+", "-", place.name).strip("-") or "adapter",
        places={"token": token, "offline": offline, "trust_remote_code": trust_remote_code},
    )
    return writers[engine](adapter, wish)


# ----------------------------------------------------------------------------------------------- engines


def _export_vllm(adapter: AdapterDir, wish: _Wish) -> Exported:
    base = find_base(adapter, wish.base, wish.revision, **wish.places)
    fit = check_vllm(adapter, base)
    written, notes = _write(adapter, wish, even="yes")
    own = any((written.path / name).is_file() for name in TOKENIZER)
    return Exported(
        folder=wish.out,
        engine="vllm",
        command=serve_command(wish.out, base, fit, name=wish.name, tokenizer="own" if own else "base"),
        language="shell",
        notes=(*fit.notes, *notes),
    )


def _export_peft(adapter: AdapterDir, wish: _Wish) -> Exported:
    _check_known_to_peft(adapter)
    written, notes = _write(adapter, wish, even="no")
    # Whoever reads it here may use the folder of this machine; the files name what others can resolve.
    base = written.config.get("base_model_name_or_path") or wish.base or adapter.base_name
    code = plain_code(written, json.dumps(str(wish.out)), base=json.dumps(str(base)) if base else None)
    return Exported(folder=wish.out, engine="peft", command=code, language="python", notes=tuple(notes))


def _export_merged(adapter: AdapterDir, wish: _Wish) -> Exported:
    merged = merge_adapter(
        adapter,
        wish.out,
        base=wish.base,
        revision=wish.revision,
        dtype=wish.dtype,
        into=wish.into,
        check=wish.check,
        **wish.places,
    )
    notes = [f"Merged with the whole model in memory: {merged.why_memory}."] if merged.why_memory else []
    if merged.author is not None and merged.author.verdict == "different" and merged.into == "unquantised":
        notes.append(
            "It answers otherwise than its author saw it, who had the base in 4 bits. Score it before you use it; with"
            " --into dequantised (into= in Python) it goes into the base as the author had it."
        )
    config = merged.adapter.config
    if config.get("is_encoder_decoder") or adapter.config.get("task_type") not in (None, "CAUSAL_LM"):
        code = plain_code(merged.adapter, json.dumps(str(wish.out)), base=None)
        notes.append("vLLM does not serve models of this kind; transformers does.")
        return Exported(
            folder=wish.out, engine="merged", command=code, language="python", notes=tuple(notes), merged=merged
        )
    command = shlex.join(["vllm", "serve", str(wish.out), "--served-model-name", wish.name])
    return Exported(
        folder=wish.out, engine="merged", command=command, language="shell", notes=tuple(notes), merged=merged
    )


# ------------------------------------------------------------------------------------------------- parts


def _write(adapter: AdapterDir, wish: _Wish, *, even: Literal["yes", "no"]) -> tuple[AdapterDir, list[str]]:
    """The adapter's files at their place, without what is only true on this machine."""
    check_files(adapter)
    check_finite(adapter)
    named = str(wish.base) if wish.base is not None and not Path(wish.base).exists() else None
    base_id = named if has_form_of_id(named) else None
    building = atomic.make_temporary_folder(wish.out)
    evened = atomic.make_temporary_folder(wish.out)
    try:
        source, notes = even_ranks(adapter, evened / "adapter") if even == "yes" else (adapter, [])
        dtype = None if wish.dtype == "auto" else wish.dtype
        notes += pack(
            source, building, repo_id=wish.name, dtype=dtype, base_id=base_id, token=wish.places["token"]
        ).notes
        packed = AdapterDir.open(building)
        _write_card(packed, wish.name, base_id)
        atomic.sync_tree(building)
        old = atomic.replace_folder(building, wish.out)
    except OSError as error:
        raise AdapterError(
            f"The export cannot be written to {wish.out}: {error}.", fix="Make room, or pass another folder."
        ) from error
    finally:
        shutil.rmtree(evened, ignore_errors=True)
        shutil.rmtree(building, ignore_errors=True)
    if old is not None:
        old.rmdir()  # it was empty
    return AdapterDir.open(wish.out), [
        note.replace("--base-id OWNER/NAME (base_id= ", "--base OWNER/NAME (base= ") for note in notes
    ]


def _write_card(packed: AdapterDir, name: str, base_id: str | None) -> None:
    """The card as that of a folder: one of a repo tells to load it from a Hub."""
    known = base_id or (packed.base_name if is_hub_id(packed.base_name, packed.base_revision) else None)
    card = render_card(packed, name=name, base_id=known)
    atomic.write_text(packed.path / CARD, scrub(merge_card((packed.path / CARD).read_text(encoding="utf-8"), card)))


def _check_known_to_peft(adapter: AdapterDir) -> None:
    """Refuse what plain PEFT would not load."""
    if not is_of_peft(adapter):
        raise MethodError(
            f"PEFT itself has no adapters of type {adapter.config.get('peft_type')}.",
            fix="Load it with hfplug.load_adapter, or serve it with hfplug.Service.",
        )
