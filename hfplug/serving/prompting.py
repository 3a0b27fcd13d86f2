"""From a text and a task to a prompt that fits: the same road that training took."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from hfplug.adapters.task import Task
from hfplug.errors import ServingError
from hfplug.serving.asked import YesOrNo
from hfplug.serving.info import Limits
from hfplug.training.preprocess import Preprocessor

_KEPT = 16


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A prompt.

    Attributes:
        ids: Its tokens.
        truncated: Whether the end of the text was cut off.
        stops: Ids that end an answer to it.
        max_new_tokens: How many tokens the model has positions for, at most.
    """

    ids: tuple[int, ...]
    truncated: YesOrNo
    stops: tuple[int, ...]
    max_new_tokens: int


class Prompter:
    """Builds prompts for one service.

    Args:
        limits: Of the service.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._kept: OrderedDict[tuple[Any, ...], Preprocessor] = OrderedDict()
        # A tokenizer of the tokenizers library may refuse a second caller while its settings are being changed.
        self._lock = threading.Lock()

    def check(self, text: str) -> None:
        """Refuse a text before any work is put into it.

        Raises:
            ServingError: It is blank, no text, or longer than is allowed.
        """
        if not isinstance(text, str):
            raise ServingError(f"The text must be a str, not {type(text).__name__}.")
        if not text.strip():
            raise ServingError("The text is blank.", fix="Pass the text that the task is about.")
        if len(text) > self.limits.max_input_characters:
            raise ServingError(
                f"The text has {len(text):,} characters, and this service takes {self.limits.max_input_characters:,}.",
                fix="Pass a shorter text.",
            )

    def prepare(
        self,
        text: str,
        task: Task,
        *,
        tokenizer: Any,
        model_config: Any,
        encoder_decoder: bool,
        virtual_tokens: int,
        max_new_tokens: int,
    ) -> Prepared:
        """The prompt for one text.

        Args:
            text: The input of the task.
            task: Its template and lengths.
            tokenizer: Of the variant.
            model_config: Of the base, for its number of positions.
            encoder_decoder: Whether the answer has positions of its own.
            virtual_tokens: Positions that the variant takes for itself.
            max_new_tokens: Tokens that the answer may have.

        Raises:
            DataError: The task's instruction leaves no room for the text.
            ServingError: The base has no tokenizer.
        """
        if tokenizer is None:
            raise ServingError(
                "The base has no tokenizer, so that no text can be put to it.",
                fix="Save one beside the base with tokenizer.save_pretrained(folder).",
            )
        most = min(task.max_input_tokens, self.limits.max_input_tokens)
        positions = getattr(model_config, "max_position_embeddings", None)
        if isinstance(positions, int) and positions > 0:
            max_new_tokens = min(max_new_tokens, positions - 1 if encoder_decoder else max(positions // 2, 1))
            most = min(most, positions if encoder_decoder else positions - max_new_tokens)
        with self._lock:
            preprocessor = self._preprocessor(task, tokenizer, encoder_decoder, most, virtual_tokens)
            prompt = preprocessor.prompt(text)
            stops = tuple(preprocessor.stop_token_ids)
        return Prepared(
            ids=tuple(prompt.input_ids),
            truncated="yes" if prompt.truncated else "no",
            stops=stops,
            max_new_tokens=max_new_tokens,
        )

    def _preprocessor(
        self, task: Task, tokenizer: Any, encoder_decoder: bool, most: int, virtual_tokens: int
    ) -> Preprocessor:
        key = (task, id(tokenizer), most, virtual_tokens)
        found = self._kept.get(key)
        if found is None:
            found = Preprocessor(
                task, tokenizer, encoder_decoder=encoder_decoder, max_input_tokens=most, reserve=virtual_tokens
            )
            self._kept[key] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return found
