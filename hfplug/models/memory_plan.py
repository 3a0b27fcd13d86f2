"""The memory plan of a base: what training takes with each method, before a weight of it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hfplug.errors import MethodError, SettingError
from hfplug.methods import TuningMethod, method_names, resolve_method
from hfplug.models.anatomy import count_parameters
from hfplug.models.applicable import settled_for
from hfplug.models.base import Base, read_task_type, resolve_base
from hfplug.models.memory import tensor_bytes
from hfplug.models.memory_devices import Device
from hfplug.models.memory_method import MethodMemory, Planned, StepSettings, corrected, fitted
from hfplug.models.memory_shapes import bare_model


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The plan of a base.

    Attributes:
        base: Repo id or folder; ``commit``: the commit that was read, None for a folder.
        model_type: As in its configuration; ``task_type``: PEFT's name of what it is for.
        parameters: Numbers of the base.
        full_copy_bytes: Weights of a fully tuned copy, in the dtype in which the base is stored.
        settings: The step.
        device: What is to fit; None if that is not known.
        methods: What each method takes.
        refused: Method to why it does not work on this base or at these settings.
    """

    base: str
    commit: str | None
    model_type: str
    task_type: str
    parameters: int
    full_copy_bytes: int
    settings: StepSettings
    device: Device | None
    methods: tuple[MethodMemory, ...]
    refused: dict[str, str]

    def for_tasks(self, tasks: int) -> dict[str, dict[str, int]]:
        """Bytes on disk for some tasks: as full copies, and as one base and an adapter a task.

        Args:
            tasks: How many.
        """
        return {
            one.method: {
                "full_copies": tasks * self.full_copy_bytes,
                "base_and_adapters": self.full_copy_bytes + tasks * one.adapter_bytes,
            }
            for one in self.methods
            if not _saves_all(one)
        }


def plan_memory(
    base: str | Path,
    methods: Sequence[str | TuningMethod] | None = None,
    *,
    settings: StepSettings | None = None,
    device: Device | None = None,
    task_type: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    probe: Callable[[TuningMethod], int] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> MemoryPlan:
    """Plan the memory of training: the configuration and the headers of the weights are read, no weight is.

    Args:
        base: Repo id or folder; a folder with a ``config.json`` alone is enough.
        methods: Names or methods; all registered ones by default.
        settings: The step; :class:`StepSettings` as it comes if None.
        device: What it is to fit onto; then the largest batch is looked for as well.
        task_type: As for :func:`~hfplug.models.factory.build_model`.
        revision: Branch, tag or commit of the base.
        trust_remote_code: Run modelling code from the repo.
        probe: Measures the peak of a method at these settings, see :mod:`hfplug.models.memory_probe`.
        say: Called with the name of each method before it is planned.

    Returns:
        The plan. A method that does not fit the base is in its ``refused``.

    Raises:
        BaseModelError: the base cannot be found or read.
        SettingError: the input is longer than the base's positions.
    """
    settings = settings or StepSettings()
    found = resolve_base(base, revision=revision, trust_remote_code=trust_remote_code)
    kind = read_task_type(found.config, task_type)
    check_length(found, settings.length, what="length")
    if getattr(found.config, "is_encoder_decoder", False):
        check_length(found, settings.target_length, what="target_length")
    bare = bare_model(found, kind)
    planned, refused = [], {}
    asked = [resolve_method(one) for one in (method_names() if methods is None else methods)]
    for method in settled_for(found, asked, kind, model=bare):
        say(method.name)
        try:
            method.check_task_type(kind)
            check_length(found, settings.length + method.virtual_tokens(), what=f"length with {method.name}'s tokens")
            ready = Planned(found, kind, method, settings)
            memory = ready.memory()
            factor = 1.0
            if probe is not None:
                memory, factor = corrected(memory, probe(method))
            planned.append(memory if device is None else fitted(ready, memory, device.usable, factor))
        except (MethodError, SettingError) as error:
            refused[method.name] = str(error)
    return MemoryPlan(
        base=found.name,
        commit=found.commit,
        model_type=found.config.model_type,
        task_type=kind,
        parameters=count_parameters(bare),
        full_copy_bytes=tensor_bytes(bare.parameters()),
        settings=settings,
        device=device,
        methods=tuple(planned),
        refused=refused,
    )


def check_tasks(tasks: int) -> None:
    """Refuse a number of tasks below 1.

    Raises:
        SettingError: with what came.
    """
    if tasks < 1:
        raise SettingError(f"tasks must be 1 or more, not {tasks}.", fix="For example --tasks 10.")


def check_length(base: Base, length: int, *, what: str) -> None:
    """Refuse an input that has more tokens than the base has positions.

    Raises:
        SettingError: with the number of positions.
    """
    positions = getattr(base.config, "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < length:
        raise SettingError(
            f"{what} is {length}, and {base.name!r} has {positions} positions.",
            fix=f"Pass --{what.partition(' ')[0].replace('_', '-')} {positions} or less.",
        )


def _saves_all(one: MethodMemory) -> bool:
    return one.trainable_parameters == one.parameters
