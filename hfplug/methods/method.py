"""What a tuning method is, and the registry of all of them.

A method is a frozen dataclass: its fields are its settings, and they become keywords, flags and keys of
JSON and YAML files. It holds no model. It *answers questions* about a model that it is shown as an
:class:`AnatomyView`: which PEFT configuration, which quantisation, which learning rate, how it is switched
off. So no other room ever asks which method it has before it.

A new method is one file in this folder and one import line in ``__init__.py``::

    @register_method
    @dataclass(frozen=True, kw_only=True)
    class MyMethod(TuningMethod):
        name: ClassVar[str] = "my_method"
        ...
"""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hfplug.errors import MethodError, SettingError, did_you_mean
from hfplug.methods.anatomy_view import AnatomyView
from hfplug.methods.defaults import WithDefaults
from hfplug.methods.plugins import check_class, load_plugins
from hfplug.methods.settings import check_setting
from hfplug.methods.values import Default as Default
from hfplug.methods.values import LearningRate as LearningRate
from hfplug.methods.values import Preset as Preset
from hfplug.methods.values import Quantization as Quantization
from hfplug.methods.values import find_preset

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

SEQ2SEQ = "SEQ_2_SEQ_LM"
CAUSAL = "CAUSAL_LM"
CLASSIFICATION = "SEQ_CLS"
TOKENS = "TOKEN_CLS"
QUESTIONS = "QUESTION_ANS"
# Two that PEFT has no name for: to PEFT they are OTHER.
MASKED = "MASKED_LM"
CHOICE = "MULTIPLE_CHOICE"
# Anything else that has a forward pass.
OTHER = "FEATURE_EXTRACTION"
TASK_TYPES = (SEQ2SEQ, CAUSAL, CLASSIFICATION, TOKENS, QUESTIONS, MASKED, CHOICE, OTHER)
PEFT_NAMES = {MASKED: OTHER, CHOICE: OTHER}
# The modules that PEFT itself trains and saves for a task type.
HEADS_OF_PEFT = {CLASSIFICATION: {"classifier", "score"}, TOKENS: {"classifier", "score"}, QUESTIONS: {"qa_outputs"}}
CATEGORIES = ("all weights", "selective", "reparameterised", "additive")


@dataclass(frozen=True, kw_only=True)
class TuningMethod(WithDefaults):
    """Base class of all tuning methods.

    Class attributes:
        name: What the user types.
        category: ``all weights``, ``selective``, ``reparameterised`` or ``additive``.
        flag_prefix: What the flags of this class's settings begin with.
        summary: One line for tables and help.
        paper: Where it comes from.
        task_types: The task types it works on.
        merging: ``"exact"`` if the result can become part of the base's weights, else why not.
        batching: ``"yes"`` if rows of a batch may go to it and to others on the same base, else why not. Whether a
            given base computes them right is tried when a variant is loaded.
        presets: Settings of papers, by name; ``"paper"`` are those of the paper above.
        untrained: ``"base"`` if an untrained adapter gives the base's outputs, else ``"changed"``.
        extra: The extra of hfplug that it needs, or None.
        peft_type: PEFT's word for the adapters that it makes, where the word tells the method; or None.
        tried_out: ``"on"`` if the model is run once when the method is put on it, on a few tokens and back, because
            whether the method works shows only then.
        input_kind: What the base is called with: ``"ids"``, ``"vectors"`` (embedded input) or ``"prefix"`` (a filled
            cache); for the last two it is seen to that the base takes them.
    """

    name: ClassVar[str]
    category: ClassVar[str]
    flag_prefix: ClassVar[str]
    summary: ClassVar[str]
    paper: ClassVar[str]
    task_types: ClassVar[tuple[str, ...]] = TASK_TYPES
    merging: ClassVar[str] = "exact"
    batching: ClassVar[str] = "yes"
    presets: ClassVar[Mapping[str, Preset]] = {}
    untrained: ClassVar[str] = "changed"
    extra: ClassVar[str | None] = None
    peft_type: ClassVar[str | None] = None
    tried_out: ClassVar[str] = "off"
    input_kind: ClassVar[str] = "ids"

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            checked = check_setting(self.name, field, hints[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, checked)

    # --- settings -----------------------------------------------------------------------------------
    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> TuningMethod:
        """Make the method from keywords.

        Args:
            settings: Names and values of settings. ``preset`` is the name of one of :attr:`presets`, which stand
                wherever nothing else is said.

        Returns:
            The method.

        Raises:
            SettingError: for a setting that this method does not have (with the method that has it, or
                with the nearest name), a value out of range, or a preset that it does not have.
        """
        own = [field.name for field in dataclasses.fields(cls)]
        given = dict(settings)
        preset = given.pop("preset", None) if "preset" not in own else None
        for key in given:
            if key not in own:
                raise SettingError(_unknown_setting(cls, key, own))
        below = find_preset(cls.name, cls.presets, preset).settings if preset is not None else {}
        return cls(**{**below, **given})

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        """Whether an ``adapter_config.json`` that says no more was made by this method.

        Args:
            config: Its content.
        """
        return cls.peft_type is not None and config.get("peft_type") == cls.peft_type

    def settings(self) -> dict[str, Any]:
        """All settings, tuples as lists, so that they go into JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def changed_settings(self) -> dict[str, Any]:
        """The settings that differ from the defaults."""
        defaults = type(self)().settings()
        return {key: value for key, value in self.settings().items() if value != defaults[key]}

    # --- questions ----------------------------------------------------------------------------------
    def peft_config(self, anatomy: AnatomyView) -> PeftConfig | None:
        """The PEFT configuration for a model, or None if PEFT has no part in this method.

        Args:
            anatomy: The model that the method is put on.

        Raises:
            MethodError: if the method does not fit the model.
        """
        return None

    def quantization(self) -> Quantization | None:
        """How the base is to be stored while this method trains, or None for full precision."""
        return None

    def base_dtype(self, stored: str) -> str:
        """The dtype in which the base's weights should be held, given that of the checkpoint.

        Args:
            stored: e.g. ``"bfloat16"``.
        """
        return stored

    def finish(self, model: nn.Module) -> nn.Module:
        """Put right what PEFT leaves, on the model that it made; the model itself, changed in place, is returned.

        Args:
            model: A ``PeftModel`` with this method on it, before it is trained.
        """
        return model

    def check_arguments(self, arguments: Any) -> None:
        """Refuse training arguments under which the method would not train.

        Args:
            arguments: ``TrainingArguments``.

        Raises:
            TrainingError: with the argument to change.
        """

    def learning_rate(self, anatomy: AnatomyView) -> LearningRate:
        """The learning rate to use on a model of this shape and size."""
        raise NotImplementedError

    def with_task_text(self, text: str) -> TuningMethod:
        """The same method, told the text of the task (its instruction), where that helps it to start.

        Args:
            text: The instruction of the task, as the model sees it.

        Returns:
            A method; this one, if the text is of no use to it.
        """
        return self

    def check_task_type(self, task_type: str) -> None:
        """Refuse a task type that the method cannot do.

        Raises:
            MethodError: naming the methods that can.
        """
        if task_type in self.task_types:
            return
        others = [name for name in method_names() if task_type in get_method(name).task_types]
        raise MethodError(
            f"{self.name} does not work on {task_type} models, only on {', '.join(self.task_types)}.",
            fix=f"Use one of: {', '.join(others)}",
        )

    def virtual_tokens(self) -> int:
        """How many positions of the model's input this method takes for itself."""
        return 0

    def loading(self, config: Mapping[str, Any]) -> Literal["beside", "into"]:
        """Whether putting a trained adapter of this method on leaves the base's weights as they are.

        Tensors of the base that are in the adapter's own file are known anyway, and do not count.

        Args:
            config: Content of ``adapter_config.json``.

        Returns:
            ``"beside"``, or ``"into"`` if weights of the base are written into while it is loaded.
        """
        return "beside"

    @contextlib.contextmanager
    def switched_off(self, model: nn.Module) -> Iterator[nn.Module]:
        """The base inside a trained model, as if the method had never been put on.

        Args:
            model: What ``apply_method`` or ``load_adapter`` returned.

        Yields:
            A model whose ``forward`` **and** ``generate`` give the base's results. Inside the block call
            this one, not the argument: PEFT's ``disable_adapter`` leaves a soft prompt on in ``generate``.

        Raises:
            MethodError: if the base is gone, because its own weights were trained.
        """
        with model.disable_adapter():  # type: ignore[operator]
            yield model

    def input_vectors(self, model: nn.Module) -> Tensor | None:
        """The vectors that the method puts between a row's padding and its first token.

        Args:
            model: The tuned model.

        Returns:
            Shape (virtual tokens, width), or None if the method puts none there.
        """
        return None

    def cached_prefix(self, model: nn.Module) -> tuple[tuple[Tensor, Tensor] | None, ...] | None:
        """The keys and values that the method puts before those of each layer (of a decoder's self-attention).

        Args:
            model: The tuned model.

        Returns:
            A pair a layer, each of shape (heads, virtual tokens, head size), None for a layer that has none; or None
            if the method has none.
        """
        return None

    def generation_inputs(
        self, model: nn.Module, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        """What to call ``generate`` on, and with what, for a left-padded (or encoder) batch.

        Args:
            model: The tuned model.
            input_ids: Token ids, shape (batch, length).
            attention_mask: 1 for real tokens, 0 for padding, shape (batch, length).

        Returns:
            The model to call and its keyword arguments.
        """
        return model, {"input_ids": input_ids, "attention_mask": attention_mask}


def modules_to_save(anatomy: AnatomyView, before: str = "base_model.model") -> list[str] | None:
    """What a PEFT configuration should name in ``modules_to_save``: the modules that start at random.

    Args:
        anatomy: The model that the method is put on.
        before: What a PEFT model of the method puts before the base's own names.

    Returns:
        Full names, or None. Those that PEFT adds by itself (``classifier``, ``score``, ``qa_outputs``) are left out; of
        a module that holds one of these (BigBird's head of answers), what is beside it, as PEFT wraps nothing twice.
        PEFT takes such a name for an ending, so where another module ends so too (a ``head`` beside a
        ``vision_model.head``) the name is as long as only a PEFT model's own is.
    """
    added = HEADS_OF_PEFT.get(anatomy.task_type, set())
    new, pending = [], list(anatomy.new_modules)
    while pending:
        name = pending.pop(0)
        inside = [one for one in anatomy.modules if one.startswith(f"{name}.")]
        if any(one.rpartition(".")[2] in added for one in inside):
            pending = [one for one in inside if "." not in one[len(name) + 1 :]] + pending
        elif name.rpartition(".")[2] not in added:
            new.append(name)
    ends = [name for name in anatomy.modules if not _is_inside(name, new)]
    return [f"{before}.{one}" if any(name.endswith(one) for name in ends) else one for one in new] or None


def _is_inside(name: str, owners: list[str]) -> bool:
    return any(name == owner or name.startswith(f"{owner}.") for owner in owners)


_REGISTRY: dict[str, type[TuningMethod]] = {}


def register_method(cls: type[TuningMethod]) -> type[TuningMethod]:
    """Class decorator: make a method known by its name.

    Raises:
        MethodError: if the class is no method, says too little of itself, or another has its name or its flags.
    """
    check_class(cls, TuningMethod, CATEGORIES, _REGISTRY)
    _REGISTRY[cls.name] = cls
    return cls


def method_names() -> tuple[str, ...]:
    """The names of all methods, those of one category together, as tables show them."""
    load_plugins(_REGISTRY)
    return tuple(sorted(_REGISTRY, key=lambda name: CATEGORIES.index(_REGISTRY[name].category)))


def get_method(name: str) -> type[TuningMethod]:
    """The class of a method.

    Args:
        name: What the user typed; upper case and hyphens are forgiven.

    Raises:
        MethodError: if there is no such method, with the nearest name.
    """
    load_plugins(_REGISTRY)
    found = _REGISTRY.get(str(name).lower().replace("-", "_"))
    if found is None:
        guess = did_you_mean(str(name), _REGISTRY)
        raise MethodError(
            f"There is no tuning method {name!r}.",
            fix=" ".join(part for part in (guess, f"The methods are: {', '.join(method_names())}.") if part),
        )
    return found


def resolve_method(method: str | TuningMethod, settings: Mapping[str, Any] | None = None) -> TuningMethod:
    """A method from its name and settings, or from a ready one.

    Args:
        method: ``"lora"``, or a method object such as ``Lora(r=8)``.
        settings: Settings that override those of ``method``.

    Raises:
        MethodError: for an unknown name.
        SettingError: for an unknown, foreign or impossible setting.
    """
    settings = dict(settings or {})
    if isinstance(method, TuningMethod):
        # Of the method only what was said: a preset, or what suits the model, stands below that and above defaults.
        return type(method).from_settings({**method.said_settings(), **settings}) if settings else method
    if not isinstance(method, str):
        raise MethodError(
            f"method must be a name or a TuningMethod, not {type(method).__name__}.",
            fix=f"For example method='lora'. The methods are: {', '.join(method_names())}.",
        )
    return get_method(method).from_settings(settings)


def _unknown_setting(cls: type[TuningMethod], key: str, own: list[str]) -> str:
    owners = [name for name, other in _REGISTRY.items() if key in {field.name for field in dataclasses.fields(other)}]
    settings = ", ".join(own) or "none"
    if owners:
        return f"{key} is a setting of {', '.join(owners)}, not of {cls.name}, whose settings are: {settings}."
    guess = did_you_mean(key, own)
    return " ".join(
        part for part in (f"{cls.name} has no setting {key!r}.", guess, f"Its settings are: {settings}.") if part
    )
