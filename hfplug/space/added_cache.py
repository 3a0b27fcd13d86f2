"""Where visitors' adapters lie, and how the oldest of them go, so that visitors cannot fill the disk."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

# Beyond those that are loaded: some are just being fetched, or were refused after a look at their files.
SPARE = 4


def visitors_cache() -> Path:
    """The folder: beside the Hub's cache of this machine, in the same form, and apart from it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser().parent / "hfplug-space-added"


def used(snapshot: Path) -> None:
    """Note that an adapter was asked for just now."""
    with contextlib.suppress(OSError):
        os.utime(snapshot)


def tidy(cache: Path, keep: int) -> int:
    """Delete the adapters that were asked for longest ago.

    Args:
        cache: As :func:`visitors_cache`.
        keep: How many stay, each one commit of a repo.

    Returns:
        How many bytes are free again.
    """
    from huggingface_hub import scan_cache_dir

    snapshots = [path for path in cache.glob("models--*/snapshots/*") if path.is_dir()]
    snapshots.sort(key=lambda path: path.stat().st_mtime)
    old = {path.name for path in snapshots[: max(0, len(snapshots) - keep)]}
    if not old:
        return 0
    try:
        plan = scan_cache_dir(cache).delete_revisions(*old)
        plan.execute()
    except (OSError, ValueError) as error:  # two visitors at once: what is gone is gone
        logger.info("The adapters of visitors in %s could not be tidied: %s", cache, error)
        return 0
    logger.info(
        "Of the adapters that visitors added, the %d oldest are gone (%d bytes).", len(old), plan.expected_freed_size
    )
    return plan.expected_freed_size
