"""A base: a pretrained model by its repo id or folder, plus the commit it was read at."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hfplug.errors import BaseModelError
from hfplug.methods.method import CAUSAL, CHOICE, CLASSIFICATION, MASKED, OTHER, QUESTIONS, SEQ2SEQ, TASK_TYPES, TOKENS

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_ALIASES = {
    "seq2seq": SEQ2SEQ,
    "seq2seq_lm": SEQ2SEQ,
    "causal": CAUSAL,
    "classification": CLASSIFICATION,
    "sequence_classification": CLASSIFICATION,
    "token_classification": TOKENS,
    "question_answering": QUESTIONS,
    "masked_lm": MASKED,
    "multiple_choice": CHOICE,
}
_AUTO_CLASSES = {
    SEQ2SEQ: "AutoModelForSeq2SeqLM",
    CAUSAL: "AutoModelForCausalLM",
    CLASSIFICATION: "AutoModelForSequenceClassification",
    TOKENS: "AutoModelForTokenClassification",
    QUESTIONS: "AutoModelForQuestionAnswering",
    MASKED: "AutoModelForMaskedLM",
    CHOICE: "AutoModelForMultipleChoice",
    OTHER: "AutoModel",
}


# Ending of a model's class to what it is for.
_ENDINGS = {
    "ForSequenceClassification": CLASSIFICATION,
    "ForTokenClassification": TOKENS,
    "ForQuestionAnswering": QUESTIONS,
    "ForMaskedLM": MASKED,
    "ForMultipleChoice": CHOICE,
}
# What a user is told to type.
_SHORT = (
    *("seq2seq", "causal", "classification", "token_classification", "question_answering"),
    *("masked_lm", "multiple_choice"),
)
# And the other way round, for a class that a configuration names.
_CLASSES = {
    SEQ2SEQ: ("ForConditionalGeneration", "ForSeq2SeqLM"),
    CAUSAL: ("ForCausalLM", "LMHeadModel"),
    CLASSIFICATION: ("ForSequenceClassification",),
    TOKENS: ("ForTokenClassification",),
    QUESTIONS: ("ForQuestionAnswering",),
    MASKED: ("ForMaskedLM",),
    CHOICE: ("ForMultipleChoice",),
    OTHER: ("Model",),
}
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Base:
    """A base that was found.

    Attributes:
        name: Repo id, or the folder as text.
        commit: The full commit hash of a repo on a Hub; None for a folder.
        config: Its transformers configuration.
        trust_remote_code: Whether the user asked to run code from the repo.
        new_head: Whether a classification head of a given size was asked for.
    """

    name: str
    commit: str | None
    config: PretrainedConfig
    trust_remote_code: bool = False
    new_head: bool = False

    @property
    def revision(self) -> str | None:
        """What to pass as ``revision`` to ``from_pretrained``: always the one commit."""
        return self.commit


def resolve_base(
    base: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    num_labels: int | None = None,
    token: str | None = None,
    offline: Literal["auto", "on"] = "auto",
) -> Base:
    """Find a base and pin it to one commit, without loading a weight.

    Args:
        base: Repo id or folder.
        revision: Branch, tag or commit; None for the default branch.
        trust_remote_code: Run modelling code from the repo. Only if the user typed it.
        num_labels: Number of classes of a new classification head.
        token: Access token for a private or gated repo.
        offline: ``"on"`` asks no Hub: the cache only.

    Returns:
        The base, with the commit that everything else is then read at.

    Raises:
        BaseModelError: if there is no such base, or its configuration cannot be read.
    """
    from transformers import AutoConfig

    name = pinned_name(str(base))
    folder = Path(name)
    if folder.is_dir():
        _check_folder(folder)
    elif folder.exists():
        raise BaseModelError(f"The base {name!r} is a file, not a model folder or a repo id.")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or not name.strip():
        raise BaseModelError(
            f"The base {name!r} looks like a folder, and there is no such folder.",
            fix="Pass an existing folder with a config.json, or a repo id such as google/flan-t5-base.",
        )
    extra: dict[str, Any] = {"num_labels": num_labels} if num_labels is not None else {}
    if token is not None:
        extra["token"] = token
    if offline == "on":
        extra["local_files_only"] = True
    try:
        commit = None if folder.is_dir() else _resolve_commit(name, revision, token, offline)
        pinned = commit or revision or "main"
        config = AutoConfig.from_pretrained(name, revision=pinned, trust_remote_code=trust_remote_code, **extra)
    except (OSError, ValueError) as error:
        raise BaseModelError(_why_not(name, revision, error), fix=_what_to_type(name, error)) from error
    return Base(
        name=name,
        commit=commit,
        config=config,
        trust_remote_code=trust_remote_code,
        new_head=num_labels is not None,
    )


def _resolve_commit(name: str, revision: str | None, token: str | None, offline: str) -> str | None:
    """The commit that a revision stands for now; without a network, the one that the cache knows.

    It is read off the place of the file in the cache: a configuration no longer bears it (transformers 5.23).
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from transformers.utils import cached_file

    only_here = offline == "on"
    path = cached_file(name, "config.json", revision=revision or "main", token=token, local_files_only=only_here)
    parent = Path(path).parent.name if path else ""
    return parent if _COMMIT.fullmatch(parent) else None


def pinned_name(name: str) -> str:
    """A base's name as it can be written down: a folder by its absolute path, anything else as it is.

    A relative ``out/base`` in an adapter would read like a repo id: seen from another folder it names a model of a
    stranger on the Hub.

    Args:
        name: Repo id or folder.
    """
    return os.path.abspath(name) if name and Path(name).is_dir() else name


def read_task_type(config: PretrainedConfig, task_type: str | None = None) -> str:
    """Which task a model is for, from its configuration unless it is given.

    Args:
        config: The base's configuration.
        task_type: ``"seq2seq"``, ``"causal"``, ``"classification"``, ``"token_classification"``,
            ``"question_answering"``, ``"masked_lm"``, ``"multiple_choice"``, or PEFT's names for them.

    Returns:
        PEFT's name of the task type; ``MASKED_LM`` and ``MULTIPLE_CHOICE``, for which PEFT has none.

    Raises:
        BaseModelError: if the name is unknown, or the configuration does not say.
    """
    if task_type is not None:
        value = str(getattr(task_type, "value", task_type))
        found = _ALIASES.get(value.lower(), value.upper())
        if found not in TASK_TYPES:
            raise BaseModelError(
                f"task_type must be one of {', '.join(_SHORT)} (PEFT: {', '.join(TASK_TYPES)}), not {value!r}."
            )
        # transformers files decoders that also hear (Qwen2-Audio) under sequence to sequence.
        return CAUSAL if found == SEQ2SEQ and not getattr(config, "is_encoder_decoder", True) else found
    architectures = getattr(config, "architectures", None) or []
    for ending, task in _ENDINGS.items():
        # A masked language model is what every encoder was pretrained as, and says nothing of what it is wanted for.
        if task != MASKED and any(name.endswith(ending) for name in architectures):
            return task
    if getattr(config, "is_encoder_decoder", False):
        return SEQ2SEQ
    if any(name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in architectures):
        return CAUSAL
    raise BaseModelError(
        f"The configuration of this {config.model_type} model does not say what it is for "
        f"(architectures: {', '.join(architectures) or 'none'}).",
        fix=f"Pass task_type, one of: {', '.join(_SHORT)}.",
    )


def auto_class(task_type: str, config: object = None) -> type:
    """The transformers Auto class that loads models of a task type.

    Args:
        task_type: PEFT's name of it.
        config: Of the model: some decoders can be loaded as sequence to sequence only.
    """
    import transformers

    if task_type == CAUSAL and config is not None:
        causal, other = (getattr(transformers, _AUTO_CLASSES[one])._model_mapping for one in (CAUSAL, SEQ2SEQ))
        if type(config) not in causal and type(config) in other:
            task_type = SEQ2SEQ
    auto: type = getattr(transformers, _AUTO_CLASSES[task_type])
    own = class_of(config)  # type: ignore[arg-type]
    mapped = type(config) in auto._model_mapping  # type: ignore[attr-defined]
    if mapped or own is None or own.config_class is not type(config) or not own.__name__.endswith(_CLASSES[task_type]):
        return auto
    return _alone(own)


def _alone(own: Any) -> type:
    """A class of one kind of model, asked like an Auto class.

    The text half of Mllama and Emu3, saved by itself, has a configuration that no Auto class knows (transformers 5.23);
    it names its class.
    """

    def from_config(config: Any, *, trust_remote_code: bool = False, **more: Any) -> Any:
        return own._from_config(config, **more)

    members = {"from_pretrained": staticmethod(own.from_pretrained), "from_config": staticmethod(from_config)}
    return type(own.__name__, (), members)


def class_of(config: PretrainedConfig) -> Any:
    """The class of transformers that a configuration says it is of, or None if it names none that there is."""
    import transformers

    names = getattr(config, "architectures", None) or []
    return next((found for name in names if isinstance(found := getattr(transformers, name, None), type)), None)


def task_type_of(model: object) -> str:
    """Which task a loaded model is for, from its class.

    Raises:
        BaseModelError: if it is for none of them.
    """
    name = type(model).__name__
    for ending, task_type in _ENDINGS.items():
        if name.endswith(ending):
            return task_type
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False) and hasattr(model, "generate"):
        return SEQ2SEQ
    if name.endswith(("ForCausalLM", "LMHeadModel", "ModelWithLMHead")):  # the last is Reformer's
        return CAUSAL
    raise BaseModelError(
        f"A {name} is not a model for seq2seq, causal or masked language modelling, classification of texts or tokens, "
        "or question answering.",
        fix="Load it with AutoModelForSeq2SeqLM, AutoModelForCausalLM or AutoModelForSequenceClassification, "
        "or pass task_type.",
    )


def tokenizer_source(name: str, commit: str | None) -> str | None:
    """Where a tokenizer for a base can be read from, or None.

    ``AutoTokenizer`` makes an empty tokenizer, without a word, for a folder that holds none.

    Args:
        name: Repo id or folder of the base.
        commit: Its commit; a repo on a Hub is taken to have a tokenizer.
    """
    if commit:
        return name
    files = ("tokenizer.json", "tokenizer_config.json", "spiece.model", "tokenizer.model", "vocab.json", "vocab.txt")
    return name if name and any((Path(name) / file).is_file() for file in files) else None


def _check_folder(folder: Path) -> None:
    if (folder / "config.json").is_file():
        return
    if (folder / "adapter_config.json").is_file():
        raise BaseModelError(
            f"The folder {str(folder)!r} holds an adapter, not a base.",
            fix="Pass the base that it was trained on, or read it with hfplug.load_adapter(folder).",
        )
    raise BaseModelError(
        f"The folder {str(folder)!r} has no config.json.", fix="Pass a folder written by save_pretrained."
    )


def _why_not(name: str, revision: str | None, error: Exception) -> str:
    at = f" at revision {revision!r}" if revision else ""
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"The base {name!r}{at} cannot be read: {first_line.rstrip('.')}."


def _what_to_type(name: str, error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return "It needs code from its repo: read that code, then pass trust_remote_code=True."
    if "offline" in text.lower() or "connect" in text.lower() or "couldn't" in text.lower():
        return "There is no connection to the Hub and no cached copy: pass a local folder, or go online once."
    return "Check the spelling; for a private or gated repo run `hf auth login` first."
