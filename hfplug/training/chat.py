"""A tokenizer's chat template, as far as training one answer needs it."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hfplug.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ChatTemplate:
    """One user's message and one answer, as the ids that the tokenizer's chat template makes of them.

    What the texts say in the tokens of the template (a dialogue about ``<|im_end|>``, say) is encoded as
    plain text where the installed transformers can tell the two apart (``sanitize_control_tokens``).

    Args:
        tokenizer: One whose ``chat_template`` is set. It is read, never changed.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def question(self, text: str) -> list[int]:
        """The ids that an answer to ``text`` follows: ``add_generation_prompt=True``."""
        return self._ids([{"role": "user", "content": text}], add_generation_prompt=True)

    def answer(self, text: str, target: str) -> list[int]:
        """The ids that ``target`` adds to :meth:`question`, up to and including the end of turn.

        Raises:
            DataError: The template refuses such messages.
        """
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": target}]
        question, whole = self.question(text), self._ids(messages)
        if whole[: len(question)] != question:
            # The template writes a finished turn otherwise than one to be continued (a "thinking" part
            # left out, say). What is generated follows the question, so the bare target behind it is learnt.
            return self._closed(self._bare(target))
        return self._closed(whole[len(question) :])

    def _closed(self, answer: list[int]) -> list[int]:
        """``answer`` up to its last end of turn; what a template writes after it is never generated."""
        end = self.end_of_turn
        if end is None:
            return answer
        return answer[: len(answer) - answer[::-1].index(end)] if end in answer else [*answer, end]

    def _bare(self, text: str) -> list[int]:
        options = {"split_special_tokens": True} if self._holds_marker(text) else {}
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False, **options)["input_ids"])

    @cached_property
    def end_of_turn(self) -> int | None:
        """The id that ends an answer: the last special one that the template writes behind it, else eos."""
        question = self.question("a")
        whole = self._ids([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        if whole[: len(question)] == question:
            whole = whole[len(question) :]
        special = set(self._tokenizer.added_tokens_decoder) | set(self._tokenizer.all_special_ids)
        # The letters are not special, so whatever comes last and is special was written by the template.
        return next((token for token in reversed(whole) if token in special), self._tokenizer.eos_token_id)

    def _ids(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = False) -> list[int]:
        options: dict[str, Any] = {
            "add_generation_prompt": add_generation_prompt,
            "tokenize": True,
            "return_dict": False,
            "tokenizer_kwargs": {"verbose": False},
        }
        try:
            if any(self._holds_marker(message["content"]) for message in messages) and self._can_sanitize:
                options["sanitize_control_tokens"] = True
            return list(self._tokenizer.apply_chat_template(messages, **options))
        except Exception as error:  # jinja raises whatever the template's author wrote
            raise DataError(
                f"The tokenizer's chat template cannot render a user's message and an answer: {error}.",
                fix="Set tokenizer.chat_template to one that can, or to None to train on plain text.",
            ) from error

    @cached_property
    def _can_sanitize(self) -> bool:
        method = self._tokenizer.apply_chat_template
        if "sanitize_control_tokens" not in inspect.signature(method).parameters:
            return False
        try:  # some tokenizers add special tokens in a way that rules it out; they say so when asked
            method([{"role": "user", "content": "a"}], sanitize_control_tokens=True)
        except (NotImplementedError, ValueError):
            return False
        return True

    @cached_property
    def _markers(self) -> tuple[str, ...]:
        added = (str(token) for token in self._tokenizer.added_tokens_decoder.values())
        return tuple(token for token in added if token and not token.isspace())

    def _holds_marker(self, text: str) -> bool:
        return any(marker in text for marker in self._markers)
