"""From text to token ids, the same way for training and for asking.

Three rules:

1. *The dialogue gives way, nothing else.* A prompt that is too long loses the end of its dialogue, at the
   end of a turn (line) if that keeps at least half of what fits. Instruction and target are never cut for
   it. The text is cut and the prompt rendered and tokenised again, so that ids always are what the
   tokenizer makes of some text.
2. *One road.* :meth:`Preprocessor.train_example` puts its answer behind the very ids that
   :meth:`Preprocessor.prompt` gives, and generation starts from these.
3. *Loss on the answer alone.* Causal models see ``-100`` as label on the whole prompt.

Chat models get the prompt as the user's message and answer it (``chat.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from datasets import Dataset, Features, List, Value

from hfplug.errors import DataError
from hfplug.training.chat import ChatTemplate
from hfplug.training.dataset import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfplug.adapters.task import Task

IGNORED = -100  # the label that torch's cross-entropy leaves out
# A cut at a line must keep this share of what fits, a cut at a space this much; else it is cut at a token.
_KEEP_AT_LINE, _KEEP_AT_SPACE = 0.5, 0.9


@dataclass(frozen=True)
class Prompt:
    """What a model is asked.

    Attributes:
        text: The rendered prompt, before any chat template.
        input_ids: Its token ids, with everything that the tokenizer or chat template adds.
        truncated: Whether the end of the dialogue was cut off.
    """

    text: str
    input_ids: list[int]
    truncated: bool


@dataclass(frozen=True)
class EncodingReport:
    """What encoding a data set did to it. Token counts are sums over all rows.

    Attributes:
        rows: Rows made.
        truncated_inputs: Rows whose dialogue lost its end.
        truncated_targets: Rows whose target was longer than allowed.
        longest_input: Tokens of the longest row of ``input_ids``.
        longest_target: Tokens of the longest target (labels that count).
        real_tokens: Input tokens, and for an encoder-decoder model target tokens too. (In a causal
            model the target is part of the input.)
        padding_tokens_if_max_length: Padding that there would be if every row were padded to the
            greatest length allowed, as the well-known lab does.
    """

    rows: int
    truncated_inputs: int
    truncated_targets: int
    longest_input: int
    longest_target: int
    real_tokens: int
    padding_tokens_if_max_length: int


class Encoded(NamedTuple):
    """Rows ready for a Trainer, and what was done to them."""

    dataset: Dataset
    report: EncodingReport


class _Row(NamedTuple):
    input_ids: list[int]
    labels: list[int]
    target_tokens: int
    input_truncated: bool
    target_truncated: bool


class Preprocessor:
    """Turns texts and targets of one task into token ids for one kind of model.

    Args:
        task: Holds the prompt template and the default lengths.
        tokenizer: The base's. It is read, never changed; one without a padding token is fine.
        encoder_decoder: True for a seq2seq model (``config.is_encoder_decoder``), False for a causal one.
        max_input_tokens: Length of the whole prompt in tokens, instruction and template included; the
            task's by default.
        max_target_tokens: Length of the target in tokens, its end token included; the task's by default.
        reserve: Positions to leave free of the input, e.g. for the vectors of a soft prompt.

    Raises:
        DataError: The lengths leave no room for the dialogue.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        *,
        encoder_decoder: bool,
        max_input_tokens: int | None = None,
        max_target_tokens: int | None = None,
        reserve: int = 0,
    ) -> None:
        self.task = task
        self.tokenizer = tokenizer
        self.encoder_decoder = encoder_decoder
        self.max_input_tokens = task.max_input_tokens if max_input_tokens is None else max_input_tokens
        self.max_target_tokens = task.max_target_tokens if max_target_tokens is None else max_target_tokens
        self.reserve = reserve
        has_chat = not encoder_decoder and bool(getattr(tokenizer, "chat_template", None))
        self._chat = ChatTemplate(tokenizer) if has_chat else None
        fixed = len(self._encode_prompt(task.render("")))
        if self.max_target_tokens < 2:
            raise DataError(
                f"max_target_tokens={self.max_target_tokens} leaves no room for a target and its end token.",
                fix="Pass --max-target-tokens 64, say.",
            )
        if fixed >= self._room:
            kept_free = f" less {reserve} kept free" if reserve else ""
            raise DataError(
                f"The prompt of task {task.name!r} takes {fixed} tokens without any {task.input_column}, and"
                f" max_input_tokens is {self.max_input_tokens}{kept_free}: no room is left for the"
                f" {task.input_column}.",
                fix=f"Pass --max-input-tokens {2 * fixed + reserve + 64} or more, or a shorter prompt.",
            )
        self._fixed = fixed

    @property
    def _room(self) -> int:
        return self.max_input_tokens - self.reserve

    @cached_property
    def stop_token_ids(self) -> list[int]:
        """Ids that end an answer as it was trained: the end-of-text token, and the template's end of turn."""
        found = [self._chat.end_of_turn if self._chat else None, self.tokenizer.eos_token_id]
        return list(dict.fromkeys(token for token in found if token is not None))

    def prompt(self, text: str) -> Prompt:
        """The prompt for one ``text``, cut at the text's end so that it fits.

        Args:
            text: The input, e.g. a dialogue. It must not be blank.

        Returns:
            At most ``max_input_tokens - reserve`` ids.

        Raises:
            DataError: Not even the first token of the text fits.
        """
        whole = self.task.render(text)
        ids = self._encode_prompt(whole)
        if len(ids) <= self._room:
            return Prompt(whole, ids, truncated=False)
        ends = self._token_ends(text)
        return self._cut_at_characters(text) if ends is None else self._cut_at_tokens(text, ends, len(ids))

    def train_example(self, text: str, target: str) -> dict[str, list[int] | int]:
        """One row for a Trainer.

        Args:
            text: The input, e.g. a dialogue.
            target: What the model is to answer.

        Returns:
            ``input_ids``, ``attention_mask`` (all 1), ``labels``, and ``length`` = ``len(input_ids)``, by
            which batches are grouped. For a seq2seq model ``labels`` are the target's ids and its end
            token; for a causal model ``input_ids`` are prompt and answer, and ``labels`` the same length
            with -100 on the prompt.
        """
        return _columns(self._row(text, target))

    def encode_dataset(self, examples: Iterable[Example], *, references: Literal["first", "all"] = "first") -> Encoded:
        """Rows for a Trainer (``train_sampling_strategy="group_by_length"`` reads their ``length``).

        Args:
            examples: What to teach, not grouped.
            references: ``"first"``: one row an example, with its first reference; ``"all"``: a row for
                each reference.

        Returns:
            The rows (columns ``input_ids``, ``attention_mask``, ``labels``, ``length``) and the report.
        """
        if references not in ("first", "all"):
            raise DataError(f"references must be 'first' or 'all'; got {references!r}.", fix="Pass references='first'.")
        rows = [
            self._row(example.text, target)
            for example in examples
            for target in (example.references if references == "all" else example.references[:1])
        ]
        ids = List(Value("int32"))
        features = Features(input_ids=ids, attention_mask=List(Value("int8")), labels=ids, length=Value("int32"))
        return Encoded(Dataset.from_list([_columns(row) for row in rows], features=features), self._report(rows))

    def _report(self, rows: Sequence[_Row]) -> EncodingReport:
        targets = sum(row.target_tokens for row in rows) if self.encoder_decoder else 0
        real = sum(len(row.input_ids) for row in rows) + targets
        return EncodingReport(
            rows=len(rows),
            truncated_inputs=sum(row.input_truncated for row in rows),
            truncated_targets=sum(row.target_truncated for row in rows),
            longest_input=max((len(row.input_ids) for row in rows), default=0),
            longest_target=max((row.target_tokens for row in rows), default=0),
            real_tokens=real,
            padding_tokens_if_max_length=len(rows) * (self._room + self.max_target_tokens) - real,
        )

    def _row(self, text: str, target: str) -> _Row:
        prompt = self.prompt(text)
        answer = self._target_ids(target) if self.encoder_decoder else self._answer_ids(prompt, target)
        truncated = len(answer) > self.max_target_tokens
        if truncated:
            # The last token says that the answer is over. Cut without it, the model would never stop.
            answer = [*answer[: self.max_target_tokens - 1], answer[-1]]
        if self.encoder_decoder:
            return _Row(prompt.input_ids, answer, len(answer), prompt.truncated, truncated)
        labels = [IGNORED] * len(prompt.input_ids) + answer
        return _Row(prompt.input_ids + answer, labels, len(answer), prompt.truncated, truncated)

    # -- targets ------------------------------------------------------------------------------------

    def _target_ids(self, target: str) -> list[int]:
        ids = list(self.tokenizer(text_target=target, verbose=False)["input_ids"])
        return _ended(ids, self.tokenizer.eos_token_id)

    def _answer_ids(self, prompt: Prompt, target: str) -> list[int]:
        """What a causal model is to write after ``prompt``, its end token included."""
        if self._chat is not None:
            return self._chat.answer(prompt.text, target)
        # As one text, so that the first word is split as the model itself would write it (" The").
        glue = "" if prompt.text[-1:].isspace() else " "
        whole, head = self._encode_prompt(prompt.text + glue + target), len(prompt.input_ids)
        ids = whole[head:] if whole[:head] == prompt.input_ids else self._plain(target)
        return _ended(ids, self.tokenizer.eos_token_id)

    # -- prompts ------------------------------------------------------------------------------------

    def _encode_prompt(self, text: str) -> list[int]:
        if self._chat is not None:
            return self._chat.question(text)
        ids = list(self.tokenizer(text, verbose=False)["input_ids"])
        if self.encoder_decoder:
            return ids
        eos, bos = self.tokenizer.eos_token_id, self.tokenizer.bos_token_id
        # A causal prompt is to be continued, so an end token (of GPT-NeoX's or Llama's add_eos_token)
        # has no place in it; and a template that writes <s> itself must not get a second one.
        if len(ids) > 1 and ids[-1] == eos and not text.endswith(self.tokenizer.eos_token):
            ids.pop()
        if bos is not None and ids[:2] == [bos, bos]:
            ids.pop(0)
        return ids

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    # -- cutting ------------------------------------------------------------------------------------

    def _token_ends(self, text: str) -> list[int] | None:
        """Where each token of ``text`` ends, in characters; None if the tokenizer cannot say."""
        if not getattr(self.tokenizer, "is_fast", False):
            return None
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [end for _, end in encoded["offset_mapping"]]

    def _cut_at_tokens(self, text: str, ends: Sequence[int], length: int) -> Prompt:
        keep = len(ends) - max(length - self._room, 1)
        while keep > 0:
            cut = self._fitting(text, ends[keep - 1])
            if isinstance(cut, Prompt):
                return cut
            keep -= cut
        raise self._nothing_fits()

    def _cut_at_characters(self, text: str) -> Prompt:
        """As above for tokenizers that cannot say where a token ends: by halving, ten tokenisations or so."""
        fits, too_long = 0, len(text)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if len(self._encode_prompt(self.task.render(text[:middle].rstrip()))) <= self._room:
                fits = middle
            else:
                too_long = middle
        while fits > 0:
            cut = self._fitting(text, fits)
            if isinstance(cut, Prompt):
                return cut
            fits -= cut
        raise self._nothing_fits()

    def _fitting(self, text: str, end: int) -> Prompt | int:
        """The prompt with ``text`` up to ``end``, or by how many tokens (1 or more) it is still too long."""
        cut = _cut_text(text, end)
        if not cut.strip():
            raise self._nothing_fits()
        rendered = self.task.render(cut)
        ids = self._encode_prompt(rendered)
        over = len(ids) - self._room
        return Prompt(rendered, ids, truncated=True) if over <= 0 else over

    def _nothing_fits(self) -> DataError:
        return DataError(
            f"Not one word of the {self.task.input_column} fits into max_input_tokens={self.max_input_tokens}"
            f" beside the {self._fixed} tokens of the prompt of task {self.task.name!r}.",
            fix=f"Pass --max-input-tokens {2 * self._fixed + self.reserve + 64} or more.",
        )


def _columns(row: _Row) -> dict[str, list[int] | int]:
    return {
        "input_ids": row.input_ids,
        "attention_mask": [1] * len(row.input_ids),
        "labels": row.labels,
        "length": len(row.input_ids),
    }


def _ended(ids: list[int], end: int | None) -> list[int]:
    """``ids`` with ``end`` as their last, once."""
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def _cut_text(text: str, end: int) -> str:
    """``text`` up to ``end`` characters, moved back to the end of a line, or of a word, if one is near."""
    if end >= len(text):
        return text.rstrip()
    for separator, share in (("\n", _KEEP_AT_LINE), (" ", _KEEP_AT_SPACE)):
        # From end + 1: a separator right behind the cut means that the line or word is whole.
        found = text.rfind(separator, 0, end + 1)
        if found >= share * end and text[:found].strip():
            return text[:found].rstrip()
    return text[:end].rstrip()
