"""Rows of a batch while they are written: text that only grows, and for each row its own end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from transformers import StoppingCriteria

from hfplug.serving.turns import Turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfplug.serving.asked import Ended

_UNFINISHED = "�"  # what a tokenizer gives for the bytes of a character of which the rest is still to come
_GAP = 4  # characters of the longest thing that clean-up closes up, " n't"


class GrowingText:
    """The text of tokens that come one by one, of which every state begins with the one before.

    The tokens are decoded as a whole each time: a piece alone may be half a character (byte-level BPE), may have
    lost the space in front of it (sentencepiece), or may change the token before it (WordPiece). What the next
    token could still change is held back: half a character, white space at the end, and for tokenizers that clean
    up ("do n't" becomes "don't") the last word while it is as short as that.

    Args:
        tokenizer: Read only.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""
        self._cleans_up = bool(getattr(tokenizer, "clean_up_tokenization_spaces", False))

    def extend(self, ids: Iterable[int]) -> str:
        """Add tokens.

        Returns:
            The text so far that will stay.
        """
        self.ids.extend(ids)
        text = self._decode().rstrip(_UNFINISHED).rstrip()
        if self._cleans_up and (gap := text[-_GAP:].find(" ")) >= 0:
            text = text[: max(len(text) - _GAP, 0) + gap].rstrip()
        if text.startswith(self.text):
            self.text = text
        return self.text

    def whole(self) -> str:
        """The text of all tokens, nothing held back."""
        return self._decode()

    def _decode(self) -> str:
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return text.strip()


class Reader(Protocol):
    """Who gets a row's text: a request of the service."""

    @property
    def called_off(self) -> bool: ...
    def first_token(self) -> None: ...
    def publish(self, text: str, tokens: int) -> None: ...
    def finish(self, text: str, tokens: int, ended: Ended) -> None: ...


class Row:
    """One row while it is written.

    Args:
        reader: Who gets its text.
        tokenizer: Its tokenizer.
        max_new_tokens: Where it is cut.
        stops: Ids that end it.
    """

    def __init__(
        self, reader: Reader, tokenizer: PreTrainedTokenizerBase, *, max_new_tokens: int, stops: frozenset[int]
    ) -> None:
        self.reader = reader
        self.max_new_tokens = max_new_tokens
        self.stops = stops
        self.ended: Ended | None = None
        self._text = GrowingText(tokenizer)
        self._new: list[int] = []
        self._count = 0

    def add(self, token: int) -> None:
        """One more token, unless it is over. Cheap: the text is made in :meth:`tell`."""
        if self.ended is not None:
            return
        if self.reader.called_off:
            self.ended = "cancelled"
            return
        self._new.append(token)
        self._count += 1
        if self._count == 1:
            self.reader.first_token()
        if token in self.stops:
            self.ended = "stop"
        elif self._count >= self.max_new_tokens:
            self.ended = "length"

    def tell(self) -> None:
        """Give the reader what is new."""
        if self._new:
            new, self._new = self._new, []
            text = self._text.extend(new)
            if self.ended is None:
                self.reader.publish(text, self._count)
        if self.ended is not None:
            self.reader.finish(self._text.whole(), self._count, self.ended)

    def close(self) -> None:
        """``generate`` is done: what has not ended by itself was cut by the model's own limits."""
        self.ended = self.ended or ("cancelled" if self.reader.called_off else "length")
        self.tell()


class RowWatch(StoppingCriteria):
    """Sees each new token of each row, ends each row for itself, and lets other passes compute in between.

    ``generate`` asks its stopping criteria after each token, for every way of decoding, and shows them all that is
    written; a streamer would get the same tokens, but none from a beam search.

    Args:
        rows: The rows of the batch.
        turns: A turn that this thread has.
        beams: Above 1, ``input_ids`` holds guesses that may be dropped again: nothing is told before the end.
    """

    def __init__(self, rows: Sequence[Row], turns: Turns, *, beams: int) -> None:
        self.rows = rows
        self.turns = turns
        self.beams = beams

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Which rows (of beams: which guesses) are over; shape (rows times beams,)."""
        if self.beams > 1:
            with self.turns.let_others():
                over = all(row.reader.called_off for row in self.rows)
            return torch.full((input_ids.shape[0],), over, dtype=torch.bool, device=input_ids.device)
        new = input_ids[:, -1].tolist()
        with self.turns.let_others():
            for row, token in zip(self.rows, new, strict=True):
                if row.ended is None:
                    row.add(token)
                    row.tell()
        over_rows = [row.ended is not None for row in self.rows]
        return torch.tensor(over_rows, dtype=torch.bool, device=input_ids.device)

    def __deepcopy__(self, memo: object) -> RowWatch:
        # PEFT copies what generate is called with (seq2seq soft prompts); a copy would talk to copied requests.
        return self

    def take_beams(self, output: Tensor, first: int) -> None:
        """The answers of a beam search.

        Args:
            output: What ``generate`` returned, shape (rows, length).
            first: The column of the first new token.
        """
        for row, ids in zip(self.rows, output.tolist(), strict=True):
            for token in ids[first:]:
                row.add(token)
