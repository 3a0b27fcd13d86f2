"""What every column of a comparison shares, whether it is trained here or was trained before."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfplug.adapters.task import Task
from hfplug.comparison.study_folder import StudyFolder
from hfplug.comparison.variants import DataInfo
from hfplug.errors import BaseModelError, StudyError
from hfplug.methods.method import CAUSAL, SEQ2SEQ
from hfplug.models.base import Base, read_task_type, tokenizer_source
from hfplug.training.dataset import Example
from hfplug.training.preprocess import Preprocessor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
class ScoredInputs:
    """What every column is asked, and how.

    Attributes:
        folder: Where things are kept.
        base: The base, pinned to a commit.
        task_type: PEFT's name of the task type.
        tokenizer: The base's.
        task: What is asked.
        evaluation: Rows to score on, all references of a text in one row.
        data: What the report says of the rows.
        dtype: Of the base's weights.
        eval_batch_size: Rows a batch when texts are generated.
        seed: Of the resampling.
    """

    folder: StudyFolder
    base: Base
    task_type: str
    tokenizer: PreTrainedTokenizerBase
    task: Task
    evaluation: list[Example]
    data: DataInfo
    dtype: str
    eval_batch_size: int
    seed: int

    def preprocessor(self, *, reserve: int = 0, tokenizer: PreTrainedTokenizerBase | None = None) -> Preprocessor:
        """A preprocessor for this task and base.

        Args:
            reserve: Positions to leave free for virtual tokens.
            tokenizer: Of a variant that has its own; the base's if None.
        """
        return Preprocessor(
            self.task,
            tokenizer if tokenizer is not None else self.tokenizer,
            encoder_decoder=bool(self.base.config.is_encoder_decoder),
            reserve=reserve,
        )


def generating_task_type(base: Base) -> str:
    """PEFT's name of the base's task type.

    Raises:
        StudyError: The base generates no texts.
    """
    task_type = read_task_type(base.config)
    if task_type not in (SEQ2SEQ, CAUSAL):
        raise StudyError(
            f"A study compares generated texts, and {base.name!r} is a {task_type} model.",
            fix="Pass a seq2seq or a causal base.",
        )
    return task_type


def read_tokenizer(base: Base) -> PreTrainedTokenizerBase:
    """The base's tokenizer.

    Raises:
        BaseModelError: There is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    how = "Save the tokenizer beside the model with tokenizer.save_pretrained(folder)."
    if tokenizer_source(base.name, base.commit) is None:
        raise BaseModelError(f"The base {base.name!r} has no tokenizer beside it.", fix=how)
    try:
        return AutoTokenizer.from_pretrained(base.name, revision=base.revision or "main")
    except (OSError, ValueError, TypeError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BaseModelError(
            f"The base {base.name!r} has no tokenizer that can be read: {first_line}",
            fix=how,
        ) from error


def public_name(source: str) -> str:
    """The name of a data source without the folders of this machine."""
    path = Path(source)
    return Path(os.path.abspath(path)).name if path.exists() else source
