"""What is known of a model from the moment it was loaded: what its checkpoint lacked, and how long its vocabulary was.

Under ``hfplug run`` each ``from_pretrained`` leaves a note. Without one (``plug`` in a notebook) the checkpoint is
asked again, on the ``meta`` device, where no weight is read.
"""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from hfplug.models.ends import embedding_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadNote:
    """What ``from_pretrained`` knew.

    Attributes:
        missing: Names of the parameters that start at random.
        rows: Rows of the input embedding in the checkpoint, or None.
    """

    missing: tuple[str, ...] = ()
    rows: int | None = None


_NOTES: weakref.WeakKeyDictionary[nn.Module, LoadNote] = weakref.WeakKeyDictionary()


def leave_note(model: Any, info: dict[str, Any]) -> None:
    """Note what a load brought.

    Args:
        model: The model that was loaded just now.
        info: What ``from_pretrained(output_loading_info=True)`` gave beside it.
    """
    mismatched = {key if isinstance(key, str) else key[0] for key in info.get("mismatched_keys", ())}
    missing = tuple(sorted({*info.get("missing_keys", ()), *mismatched}))
    _NOTES[model] = LoadNote(missing=missing, rows=embedding_rows(model))


def note_of(model: Any) -> LoadNote:
    """What is known of a model's load.

    Args:
        model: A transformers model; one that was made from a configuration has no checkpoint, and an empty note.
    """
    noted = _NOTES.get(model)
    if noted is not None:
        return noted
    source = getattr(model, "name_or_path", "") or ""
    if not source or not hasattr(type(model), "from_pretrained"):
        return LoadNote()
    from transformers import AutoConfig

    offline: dict[str, Any] = {"local_files_only": True}
    if not Path(source).is_dir() and (commit := getattr(model.config, "_commit_hash", None)):
        offline["revision"] = commit
    try:
        rows = AutoConfig.from_pretrained(source, **offline).get_text_config().vocab_size
        config = type(model.config).from_dict({**model.config.to_dict(), "vocab_size": rows})
        config.__dict__.pop("quantization_config", None)
        _, info = type(model).from_pretrained(
            source,
            config=config,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **offline,
        )
    except Exception as error:  # whatever a class of somebody's does: the structure of the model still shows its head
        logger.debug("the checkpoint of %s could not be asked again: %s", source, error)
        return LoadNote()
    mismatched = {key if isinstance(key, str) else key[0] for key in info.get("mismatched_keys", ())}
    return LoadNote(missing=tuple(sorted({*info["missing_keys"], *mismatched})), rows=rows)


def checkpoint_rows(model: Any) -> int | None:
    """Rows of the input embedding in a model's checkpoint, without reading its weights; None if it does not say.

    Args:
        model: A transformers model, or a tuned one.
    """
    noted = _NOTES.get(model)
    if noted is not None:
        return noted.rows
    source = getattr(model, "name_or_path", "") or ""
    if not source:
        return None
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, local_files_only=True).get_text_config().vocab_size
    except (OSError, ValueError, AttributeError):
        return None
