"""A script's ``push_to_hub`` becomes hfplug's push: the same repo, without the pickle that Trainer sends along."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

from hfplug.errors import TrainingError

logger = logging.getLogger(__name__)


def push_settings(args: Any) -> tuple[str, Any]:
    """Where a script's own push would have gone, and training arguments that no longer ask for it.

    Args:
        args: ``TrainingArguments`` with ``push_to_hub``; left as they are, as the script may read them.

    Returns:
        ``"owner/name"``, and a copy of the arguments without ``push_to_hub``.

    Raises:
        TrainingError: The repo has no owner, and the Hub does not say who is asking.
    """
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    if "/" not in name:
        name = f"{_who(args.hub_token)}/{name}"
    changed = copy.copy(args)
    changed.push_to_hub = False
    logger.info(
        "push_to_hub of the script is done by hfplug, to %s: Trainer's own push would send training_args.bin, a "
        "pickle that can hold the token.",
        name,
    )
    return name, changed


def _who(token: str | None) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().whoami(token=token)["name"])
    except Exception as error:  # no token, no network, no Hub
        raise TrainingError(
            "The script pushes to the Hub without an owner in hub_model_id, and the Hub does not say who you are.",
            fix="Pass --hub_model_id owner/name to the script, or run `hf auth login`.",
        ) from error
