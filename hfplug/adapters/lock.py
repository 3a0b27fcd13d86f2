"""The lock of an adapter: what it needs in order to give the same answers again.

PEFT loads an adapter onto any base of the same shape without a word, and ``adapter_config.json`` leaves
the base's commit empty. The lock therefore holds the commit, fingerprints of the base's configuration,
weights and tokenizer, the vocabulary's size, and the numbers' format, as ``hfplug_lock.json``.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hfplug.adapters.fingerprint import (
    base_parameters,
    combine_fingerprints,
    config_sha256,
    count_labels,
    fingerprint_tensor,
    fingerprint_tensors,
    is_config_of,
    is_merged,
    label_names,
    main_dtype,
    same_tensor,
    sha256_of,
    tokenizer_sha256,
)
from hfplug.adapters.json_types import check_types
from hfplug.adapters.record import check_version, package_versions, plain, scrub
from hfplug.adapters.task import Task
from hfplug.errors import AdapterError, MismatchError
from hfplug.methods.method import PEFT_NAMES
from hfplug.models.ends import embedding_rows

logger = logging.getLogger(__name__)

LOCK_VERSION = 1
DifferenceKind = Literal["base", "tokenizer", "task", "numerics"]


class Difference(str):
    """One difference between a lock and a model, in words.

    Attributes:
        kind: ``"base"``, ``"tokenizer"`` or ``"task"`` (the adapter does not belong here) or ``"numerics"``
            (the same base in another number format, or as another version of a library describes it: it
            works, with slightly other numbers).
    """

    kind: DifferenceKind

    def __new__(cls, text: str, kind: DifferenceKind) -> Difference:
        made = super().__new__(cls, text)
        made.kind = kind
        return made


@dataclass(frozen=True, kw_only=True)
class Lock:
    """What an adapter needs in order to give the same answers again.

    Args:
        base: Repo id or folder of the base.
        base_commit: The commit that the base was read at, or None for a folder.
        config_sha256: Of the base's configuration without volatile keys.
        num_labels: Labels of a classifier's head (``adapter_config.json`` does not hold it), else None.
        label_names: Their names in order, if they were given names; the base's configuration knows none of them.
        weights_fingerprint: Over ``tensors``; None if no tensor could be read.
        tensors: Name to ``{"shape", "dtype", "sha256", "values"}`` of the sampled tensors.
        vocab_size: Rows of the input embedding.
        tokenizer_sha256: Of the tokenizer, whatever padding and truncation it was last used with.
        chat_template_sha256: Of its chat template.
        task: Name of the task. prompt_sha256: Of its prompt template.
        dtype: Of most of the base's numbers, e.g. ``"bfloat16"``.
        quantization: The base's quantisation settings, or None.
        versions: Package name to version.
        loaded_for: ``"MASKED_LM"`` or ``"MULTIPLE_CHOICE"``, for which PEFT has no task type; else None.
        probe: A few inputs with the logits that the author saw; see ``probe.py``.
        weights_sha256: File name to SHA-256 of the adapter's weights, filled in when they are written.
        settings_sha256: Of ``adapter_config.json`` without keys that say where things are; None for a full model.
    """

    base: str | None = None
    base_commit: str | None = None
    config_sha256: str | None = None
    num_labels: int | None = None
    label_names: Sequence[str] | None = None
    weights_fingerprint: str | None = None
    tensors: Mapping[str, Any] = field(default_factory=dict)
    vocab_size: int | None = None
    tokenizer_sha256: str | None = None
    chat_template_sha256: str | None = None
    task: str | None = None
    prompt_sha256: str | None = None
    dtype: str | None = None
    quantization: Mapping[str, Any] | None = None
    versions: Mapping[str, str] = field(default_factory=package_versions)
    loaded_for: str | None = None
    probe: Mapping[str, Any] | None = None
    weights_sha256: Mapping[str, str] = field(default_factory=dict)
    settings_sha256: str | None = None
    lock_version: int = LOCK_VERSION

    __hash__ = None  # type: ignore[assignment]  # it holds mappings

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values without secrets; ``from_json`` gives an equal lock back."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        values = {"lock_version": values.pop("lock_version"), **scrub(plain(values))}
        later = ("label_names", "loaded_for", "probe")  # left out where there is nothing to say, as in locks of before
        return {key: value for key, value in values.items() if key not in later or value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Lock:
        """The lock that ``to_json`` described. Keys of newer versions that can be read anyway are left out.

        Raises:
            AdapterError: ``values`` is no lock, or a lock of a later ``lock_version``.
        """
        known = check_version(values, "lock_version", LOCK_VERSION, "lock")
        names = {item.name for item in dataclasses.fields(cls)}
        kept = {key: value for key, value in known.items() if key in names}
        check_types(cls, kept, "hfplug_lock.json")
        labels = kept.get("label_names")
        if labels is not None and len(labels) != kept.get("num_labels"):
            raise AdapterError(
                "'label_names' in hfplug_lock.json must hold num_labels texts.", fix="Export the adapter again."
            )
        return cls(**kept)


def make_lock(
    model: Any,
    tokenizer: Any = None,
    *,
    base_name: str | None,
    base_commit: str | None = None,
    task: Task | None = None,
    quantization: Mapping[str, Any] | None = None,
    skip: Collection[str] = (),
    loaded_for: str | None = None,
) -> Lock:
    """The lock of an adapter that was trained on ``model``.

    Args:
        model: The base, plain or wrapped by PEFT (not merged). It is only read. A fully tuned model is locked
            to its own weights; ``base_name`` and ``base_commit`` then say where it came from.
        tokenizer: The tokenizer that the adapter was trained with.
        base_name: Repo id or folder of the base.
        base_commit: The commit that it was read at.
        task: What was taught.
        quantization: Quantisation settings; read from the model's configuration if not given.
        skip: Names of parameters (as in the plain base) that its checkpoint did not hold, for example a new
            head: they are random after every load. Usual heads and poolers are left out anyway.
        loaded_for: What the model is for; kept where PEFT has no name for it.
    """
    config = _config(model)
    tensors = fingerprint_tensors(model, skip=skip)
    return Lock(
        base=base_name,
        base_commit=base_commit or getattr(config, "_commit_hash", None),
        config_sha256=config_sha256(config) if config is not None else None,
        num_labels=count_labels(model, config),
        label_names=label_names(model, config),
        weights_fingerprint=combine_fingerprints(tensors),
        tensors=tensors,
        vocab_size=embedding_rows(model),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        chat_template_sha256=sha256_of(getattr(tokenizer, "chat_template", None)),
        task=task.name if task else None,
        loaded_for=loaded_for if loaded_for in PEFT_NAMES else None,
        prompt_sha256=sha256_of(task.prompt) if task else None,
        dtype=main_dtype(model),
        quantization=scrub(plain(quantization)) if quantization is not None else _quantization(config),
    )


def verify(
    lock: Lock,
    model: Any,
    tokenizer: Any = None,
    *,
    task: Task | None = None,
    base_commit: str | None = None,
    checkpoint_rows: int | None = None,
) -> list[str]:
    """The differences between a lock and the model (and tokenizer) at hand, in words with what to do.

    Args:
        lock: Of the adapter.
        model: The base, plain or wrapped by PEFT (not merged). It is only read.
        tokenizer: Compared if given.
        task: Its prompt is compared if given.
        base_commit: The commit that ``model`` was read at, for the message.
        checkpoint_rows: Rows of the embedding before it was resized. Those beyond are new after every load,
            and are not compared.

    Returns:
        ``Difference`` texts; empty if the adapter belongs here and gives the same answers.
    """
    found: list[Difference] = []
    where = f"{lock.base!r}" if lock.base else "the base that it was made for"
    load = f"Load {where}" + (f" with revision={lock.base_commit!r}." if lock.base_commit else ".")
    config = _config(model)
    rows = embedding_rows(model)
    if None not in (rows, lock.vocab_size) and rows != lock.vocab_size:
        found.append(
            Difference(
                f"The adapter's base has {lock.vocab_size} rows in its embedding; this model has {rows}."
                f" {load} If tokens were added, call model.resize_token_embeddings({lock.vocab_size}).",
                "base",
            )
        )
    if lock.num_labels is not None and (labels := count_labels(model, config)) not in (None, lock.num_labels):
        text = f"The adapter's head has {lock.num_labels} labels; this model's has {labels}."
        found.append(Difference(f"{text} Load the base with num_labels={lock.num_labels}.", "base"))
    weights = _compare_weights(lock, model, checkpoint_rows)
    if lock.config_sha256 and config is not None and not is_config_of(config, lock.config_sha256):
        # Another version of transformers may write the same settings in another way.
        rewritten = _is_other_version(lock, "transformers") and not weights
        text = f"The model's configuration is not that of the adapter's base. {load}"
        found.append(Difference(text, "numerics" if rewritten else "base"))
    other = bool(base_commit and lock.base_commit and base_commit != lock.base_commit)
    commits = f"It was read at commit {base_commit}, the adapter was made at {lock.base_commit}."
    if weights:
        found.append(Difference(f"{weights} {commits} {load}" if other else f"{weights} {load}", "base"))
    elif other:
        text = f"The base is of another commit. {commits} The tensors that were sampled do not differ; others may."
        found.append(Difference(f"{text} {load}", "numerics"))
    found += _compare_tokenizers(lock, tokenizer)
    if lock.prompt_sha256 and task is not None and sha256_of(task.prompt) != lock.prompt_sha256:
        text = f"The prompt of task {task.name!r} is not the one that the adapter was trained with."
        found.append(Difference(f"{text} Restore hfplug_task.json, or pull the adapter again.", "task"))
    found += _compare_numerics(lock, model, config)
    return list(found)


def check(
    lock: Lock,
    model: Any,
    tokenizer: Any = None,
    *,
    want: Literal["same_base", "same_numbers"] = "same_base",
    **known: Any,
) -> None:
    """Refuse a model that the adapter was not made for.

    Args:
        lock: Of the adapter.
        model: The base, plain or wrapped by PEFT.
        tokenizer: Compared if given.
        want: ``"same_base"`` lets another number format or quantisation of the same base pass, with a
            warning in the log; ``"same_numbers"`` refuses it.
        known: ``task``, ``base_commit`` and ``checkpoint_rows``, as for :func:`verify`.

    Raises:
        MismatchError: The message lists every difference and what to do.
    """
    differences = verify(lock, model, tokenizer, **known)
    wrong = [d for d in differences if want == "same_numbers" or getattr(d, "kind", "base") != "numerics"]
    for difference in differences:
        if difference not in wrong:
            logger.warning("%s", difference)
    if wrong:
        raise MismatchError("This adapter does not fit the model at hand: " + " ".join(wrong))


def _compare_weights(lock: Lock, model: Any, checkpoint_rows: int | None = None) -> str:
    """What is wrong with the model's weights, in words; an empty text if nothing is, or none can be read."""
    if not lock.tensors or is_merged(model):
        return ""
    parameters = dict(base_parameters(model))
    wrong = []
    for name, expected in lock.tensors.items():
        tensor = parameters.get(name)
        found = None if tensor is None else fingerprint_tensor(tensor)
        is_resized = checkpoint_rows is not None and tensor is not None and tensor.shape[0] == lock.vocab_size
        known_rows = checkpoint_rows if is_resized else None
        if tensor is None or (found is not None and not same_tensor(expected, found, known_rows=known_rows)):
            wrong.append(name)
    if not wrong:
        return ""
    count = f"{len(wrong)} of {len(lock.tensors)} sampled tensors differ, the first is {wrong[0]!r}"
    return f"The model's weights are not those of the adapter's base ({count})."


def _compare_tokenizers(lock: Lock, tokenizer: Any) -> list[Difference]:
    if tokenizer is None:
        return []
    found = []
    fix = "Load it from the adapter's folder if that holds one, else from the base at the same commit."
    if lock.tokenizer_sha256 and tokenizer_sha256(tokenizer) != lock.tokenizer_sha256:
        text = "The tokenizer is not the one that the adapter was trained with."
        if length := _changed_length(lock, tokenizer):
            text += f" {length}"
        rewritten = _is_other_version(lock, "tokenizers") or _is_other_version(lock, "transformers")
        if rewritten:
            text += " The libraries have other versions too, which may be all there is to it."
        found.append(Difference(f"{text} {fix}", "numerics" if rewritten and not length else "tokenizer"))
    template = sha256_of(getattr(tokenizer, "chat_template", None))
    if lock.chat_template_sha256 and template != lock.chat_template_sha256:
        text = f"The chat template is not the one that the adapter was trained with. {fix}"
        found.append(Difference(text, "tokenizer"))
    return found


def _changed_length(lock: Lock, tokenizer: Any) -> str:
    """What the number of tokens says: more than the base has rows for are certainly not the author's."""
    length = len(tokenizer) if hasattr(tokenizer, "__len__") else 0
    if lock.vocab_size is None or length <= lock.vocab_size:
        return ""
    return f"It has {length} tokens, and the adapter's base {lock.vocab_size} rows."


def _is_other_version(lock: Lock, package: str) -> bool:
    there = lock.versions.get(package)
    return there is not None and there != package_versions([package]).get(package)


def _compare_numerics(lock: Lock, model: Any, config: Any) -> list[Difference]:
    found = []
    here, there = _quantization(config), lock.quantization
    if bool(here) != bool(there):
        text = (
            "The adapter was trained over a quantised base; this model is not quantised."
            if there
            else "The adapter was trained over a base that was not quantised; this model is."
        )
        fix = "Answers differ a little; load the base as the lock's 'quantization' says for the same ones."
        found.append(Difference(f"{text} {fix}", "numerics"))
    dtype = main_dtype(model)
    if lock.dtype and dtype and dtype != lock.dtype and not here:
        text = f"The adapter was trained with the base in {lock.dtype}; this model is in {dtype}."
        fix = f"Answers may differ a little; load the base with dtype='{lock.dtype}' for the same ones."
        found.append(Difference(f"{text} {fix}", "numerics"))
    return found


def _config(model: Any) -> Any:
    config = getattr(model, "config", None)
    return config if hasattr(config, "to_dict") else None


def _quantization(config: Any) -> dict[str, Any] | None:
    settings = getattr(config, "quantization_config", None)
    if not settings:
        return None
    return scrub(plain(settings.to_dict() if hasattr(settings, "to_dict") else dict(settings)))
