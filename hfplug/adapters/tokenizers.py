"""Whether an adapter has to carry its tokenizer: not if whoever loads the base gets the very same one with it.

No Hub is asked. transformers would look there for chat templates without a limit of time, cache or no cache, and
neither a run nor a push may wait for that.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from hfplug.adapters.files import TOKENIZER
from hfplug.adapters.fingerprint import sha256_of, tokenizer_sha256

# Of a tokenizer's rules and vocabulary, and of its chat template.
TokenizerSums = tuple[Any, Any]


def is_the_bases_tokenizer(tokenizer: Any, base: str | None, commit: str | None) -> bool:
    """Whether whoever loads the base gets this very tokenizer with it, so that the adapter need not carry it.

    Args:
        tokenizer: What the Trainer was given as ``processing_class``; None counts as the base's.
        base: Repo id or folder of the base. One whose tokenizer is not on this machine counts as having another.
        commit: Its commit.
    """
    if tokenizer is None:
        return True
    theirs = sums_at(base, commit)
    return theirs is not None and theirs == sums_of(tokenizer)


def sums_of(tokenizer: Any) -> TokenizerSums:
    """What two tokenizers have in common if they are the same."""
    return tokenizer_sha256(tokenizer), sha256_of(getattr(tokenizer, "chat_template", None))


def sums_at(place: str | None, commit: str | None = None) -> TokenizerSums | None:
    """The sums of the tokenizer in a folder or in the cache.

    Args:
        place: Folder or repo id.
        commit: Of the repo; ``main`` if not given.

    Returns:
        Its sums; None if there is none on this machine.
    """
    if not place:
        return None
    folder = Path(place)
    stamps: tuple[tuple[str, int, int], ...] = ()
    if folder.is_dir():
        files = [folder / name for name in sorted(TOKENIZER) if (folder / name).is_file()]
        if not files:
            return None
        stamps = tuple((str(file.resolve()), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    # A branch of a repo moves, and nothing here would show it.
    read = _remembered_sums if commit or stamps else _read_sums
    try:
        return read(place, commit, stamps)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError):
        return None


def _read_sums(place: str, commit: str | None, _stamps: tuple[tuple[str, int, int], ...]) -> TokenizerSums:
    from transformers import AutoTokenizer

    return sums_of(AutoTokenizer.from_pretrained(place, revision=commit or "main", local_files_only=True))


# Read once as long as the files are as they were; what fails is not remembered.
_remembered_sums = functools.lru_cache(maxsize=16)(_read_sums)
