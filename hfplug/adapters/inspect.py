"""The microscope: what an adapter learnt, read off its weights and held against its base.

Nothing is asked of the model, so nothing here says what the adapter is good at. A layer whose update is small may
matter, and one whose update is large may not; what can be said for sure is which weights moved, how far, in how many
directions, and which did not move at all.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from torch import Tensor

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.fit import check_files, check_finite
from hfplug.adapters.foreign import method_of
from hfplug.adapters.inspect_base import BaseTensors, open_base
from hfplug.adapters.inspect_change import Change, TensorChange, change_of, find_changes, measure_change
from hfplug.adapters.inspect_low_rank import Factors, LowRankLayer, find_factors, measure
from hfplug.adapters.inspect_prefix import PrefixLayer, look_at_prefix
from hfplug.adapters.inspect_prompt import PromptLoss, PromptView, look_at_prompt
from hfplug.adapters.load import find_tokenizer
from hfplug.adapters.safetensors_header import read_header
from hfplug.errors import AdapterError, MismatchError, SettingError
from hfplug.methods import TuningMethod

INSPECTION_VERSION = 1
AGAINST = ("base", "nothing")
BARELY = 0.1  # of the median layer's move, below which a layer is said to have barely moved
PROMPT = "prompt_embeddings"
Against = Literal["base", "nothing"]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was seen in one adapter.

    Attributes:
        name: Of its folder. path: The folder.
        method: Its method. kind: PEFT's type of adapter, or ``"full"``.
        base: Repo id or folder of the base, base_commit: its commit, as far as they are known.
        against: ``"base"``, or ``"nothing"`` if the adapter was looked at alone.
        read: How the base was read: ``"files"``, ``"model"``, or None.
        numbers: Trained numbers in the adapter.
        layers: Its low-rank updates and networks, in the model's order where the base tells it.
        changes: Its other tensors.
        prompt: Its soft prompt, or None. prefix: Its prefix, or nothing.
        loss: What the soft prompt is worth on some rows, if that was measured.
        notes: What cannot be known, and what is to be kept in mind.
    """

    name: str
    path: Path
    method: str
    kind: str
    base: str | None
    base_commit: str | None
    against: Against
    read: str | None
    numbers: int
    layers: tuple[LowRankLayer, ...] = ()
    changes: tuple[TensorChange, ...] = ()
    prompt: PromptView | None = None
    prefix: tuple[PrefixLayer, ...] = ()
    loss: PromptLoss | None = None
    notes: tuple[str, ...] = ()

    def barely_moved(self) -> list[str]:
        """Names of the layers and tensors that moved less than a tenth of what the median one of their kind did."""
        moved = [(one.name, one.relative if one.relative is not None else one.update_norm) for one in self.layers]
        return [*_barely(moved), *_barely([(c.name, c.relative) for c in self.changes if c.relative is not None])]

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values; numbers that are not finite are null."""
        values: dict[str, Any] = plain_json(dataclasses.asdict(self))
        values["path"] = str(self.path)
        for shown, layer in zip(values["layers"], self.layers, strict=True):
            shown["unused_rank"] = layer.unused_rank
        return {"inspection_version": INSPECTION_VERSION, **values, "barely_moved": self.barely_moved()}


class AdapterTensors(Mapping[str, Tensor]):
    """The tensors of an adapter, each read when it is asked for."""

    def __init__(self, adapter: AdapterDir) -> None:
        self._where = {name: file for file in adapter.weights for name in read_header(file)}

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(self._where[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


@dataclass(frozen=True)
class Opened:
    """An adapter and its base, ready to be looked at; what :func:`open_adapter` gives."""

    adapter: AdapterDir
    method: TuningMethod
    tensors: AdapterTensors
    base: BaseTensors | None
    tokenizer: Any = None

    def factors(self) -> list[Factors]:
        """The low-rank updates, in the order of the base's parameters where there is a base."""
        names = list(self.base.parameters) if self.base is not None else []
        found = list(find_factors(self.tensors, self.adapter.config, names))
        return sorted(found, key=lambda one: self.place(one.name))

    def change(self, name: str) -> Change | None:
        """A tensor with where it started; None for one that is read as an update or a prompt."""
        return change_of(name, self.tensors, self.adapter.config, self.base, full=self.adapter.kind == "full")

    def place(self, name: str) -> tuple[int, list[tuple[int, str]]]:
        """A key to sort modules and parameters by: the model's own order, or that of their names."""
        return self._places.get(name.partition("[")[0], len(self._places)), natural_order(name)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        """Where each module and parameter of the base comes."""
        found: dict[str, int] = {}
        for at, name in enumerate(self.base.parameters if self.base is not None else ()):
            parts = name.split(".")
            for end in range(len(parts), 0, -1):
                found.setdefault(".".join(parts[:end]), at)
        return found


def open_adapter(
    path: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    against: Against = "base",
    token: str | None = None,
    offline: Any = "auto",
    trust_remote_code: bool = False,
) -> Opened:
    """Open an adapter, and its base unless it is looked at alone. As for :func:`inspect_adapter`."""
    if against not in AGAINST:
        raise SettingError(f"against must be one of {', '.join(AGAINST)}, not {against!r}.")
    if against == "nothing" and base is not None:
        raise SettingError("A base was given, and against='nothing'.", fix="Leave one of them out.")
    adapter = AdapterDir.open(path)
    check_files(adapter)
    check_finite(adapter)
    method, tensors = method_of(adapter), AdapterTensors(adapter)
    opened = tokenizer = None
    if against == "base":
        places: dict[str, Any] = {"token": token, "offline": offline}
        opened = open_base(adapter, base, revision=revision, trust_remote_code=trust_remote_code, **places)
        if PROMPT in tensors:
            tokenizer = find_tokenizer(adapter, opened.base, **places)
    return Opened(adapter, method, tensors, opened, tokenizer)


def inspect_adapter(
    path: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    against: Against = "base",
    nearest: int = 5,
    token: str | None = None,
    offline: Any = "auto",
    trust_remote_code: bool = False,
    say: Callable[[str], None] | None = None,
) -> Inspection:
    """Look inside an adapter, without running it.

    Args:
        path: Folder of an adapter, made with hfplug or with plain PEFT, or of a fully tuned model.
        base: Repo id or folder of the base, if it is not where it was.
        revision: Commit of the base, if it is not the one that the adapter names.
        against: ``"base"`` holds it against the base, whose files are read a tensor at a time; ``"nothing"`` looks at
            the adapter alone.
        nearest: Words shown for each virtual token of a soft prompt (1 or more).
        token: Access token for a private or gated base.
        offline: ``"on"`` asks no Hub.
        trust_remote_code: Run modelling code from the base's repo.
        say: Called with what is being looked at.

    Raises:
        AdapterError: The folder is no adapter, a file is damaged, or a weight is NaN.
        BaseModelError: The base cannot be found or read.
        MismatchError: The base is not the one that the adapter was trained on.
    """
    if nearest < 1:
        raise SettingError(f"nearest must be 1 or more, not {nearest}.")
    places: dict[str, Any] = {"token": token, "offline": offline, "trust_remote_code": trust_remote_code}
    opened = open_adapter(path, base=base, revision=revision, against=against, **places)
    return look(opened, nearest=nearest, say=say)


def look(opened: Opened, *, nearest: int = 5, say: Callable[[str], None] | None = None) -> Inspection:
    """What :func:`inspect_adapter` gives, of an adapter that is open."""
    adapter, held = opened.adapter, opened.base
    tell = say or (lambda what: None)
    factors = opened.factors()
    check_places(opened, factors)
    layers = []
    for one in factors:
        tell(one.name)
        layers.append(measure(one, _weight_of(one, held)))
    changes = []
    for change in find_changes(opened.tensors, adapter.config, held, full=adapter.kind == "full"):
        tell(change.name)
        changes.append(measure_change(change))
    prompt, prefix = _prompts(opened, nearest)
    if not layers and not changes and prompt is None and not prefix:
        raise AdapterError(
            f"Nothing in {adapter.path} is of a kind that can be looked at: its tensors are called "
            f"{', '.join(adapter.tensor_names()[:3])}.",
            fix="Load it with PEFT and save it again.",
        )
    _check_any_fit(opened, layers, changes)
    return Inspection(
        name=adapter.path.resolve().name,
        path=adapter.path,
        method=opened.method.name,
        kind=str(adapter.config.get("peft_type")) if adapter.kind == "peft" else "full",
        base=held.base.name if held is not None else adapter.base_name,
        base_commit=held.base.commit if held is not None else adapter.base_revision,
        against="base" if held is not None else "nothing",
        read=held.read if held is not None else None,
        numbers=sum(math.prod(entry["shape"]) for file in adapter.weights for entry in read_header(file).values()),
        layers=tuple(layers),
        changes=tuple(sorted(changes, key=lambda one: opened.place(one.name))),
        prompt=prompt,
        prefix=prefix,
        notes=tuple(_notes(opened, layers, changes)),
    )


def natural_order(name: str) -> list[tuple[int, str]]:
    """A key to sort names by, so that layer 10 comes after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"[.\[\]]", name)]


# --------------------------------------------------------------------------------------------------------- parts


def _prompts(opened: Opened, nearest: int) -> tuple[PromptView | None, tuple[PrefixLayer, ...]]:
    if PROMPT not in opened.tensors:
        return None, ()
    vectors, config, held = opened.tensors[PROMPT], opened.adapter.config, opened.base
    if opened.method.input_kind == "prefix":
        settings: Any = held.base.config.get_text_config(decoder=True) if held is not None else None
        layers = getattr(settings, "num_decoder_layers", None) or getattr(settings, "num_hidden_layers", None)
        return None, look_at_prefix(vectors, config, layers)
    embedding = held.embedding() if held is not None else None
    return look_at_prompt(vectors, config, embedding=embedding, tokenizer=opened.tokenizer, nearest=nearest), ()


def _weight_of(factors: Factors, base: BaseTensors | None) -> Tensor | None:
    if base is None or not factors.weight:
        return None
    if factors.expert is not None:
        stack = base.get(factors.weight)
        return None if stack is None or factors.expert >= len(stack) else stack[factors.expert]
    weight = base.row_major(factors.weight)
    return None if weight is None else weight.flatten(1)


def check_places(opened: Opened, factors: list[Factors]) -> None:
    """Refuse a base that has no place for an update, or one of another shape."""
    base = opened.base
    if base is None:
        return
    for one in factors:
        came = (one.b.shape[0], one.a.shape[1])
        if not one.weight:
            modules = {name.rpartition(".")[0] for name in base.parameters}
            if one.name not in modules and not any(name.startswith(f"{one.name}.") for name in modules):
                raise _another_base(opened, f"it has no {one.name}")
            continue
        shape = base.parameters.get(one.weight)
        if shape is None:
            raise _another_base(opened, f"it has no {one.weight}")
        inner = shape[1:] if one.expert is not None else (shape[0], math.prod(shape[1:]))
        if tuple(sorted(inner)) != tuple(sorted(came)):
            raise _another_base(opened, f"{one.weight} has the shape {inner}, and the update is {came}")


def _check_any_fit(opened: Opened, layers: list[LowRankLayer], changes: list[TensorChange]) -> None:
    """Refuse a base that knows not one of an adapter's tensors."""
    copies = [one for one in changes if one.role in ("weight", "new", "bias", "rows", "scale")]
    if opened.base is None or layers or not copies or PROMPT in opened.tensors:
        return
    modules = {name.rpartition(".")[0] for name in opened.base.parameters}
    if not any(one.name in opened.base.parameters or one.name in modules for one in copies):
        raise _another_base(opened, f"it has no {copies[0].name}")
    if opened.adapter.kind == "full" and not any(one.role == "weight" and one.base_norm for one in copies):
        raise _another_base(opened, f"its {copies[0].name} has another shape")


def _another_base(opened: Opened, why: str) -> MismatchError:
    assert opened.base is not None
    wanted = opened.adapter.base_name
    return MismatchError(
        f"The adapter in {opened.adapter.path} was not made for {opened.base.base.name!r}: {why}.",
        fix=f"Pass the base that it was trained on{f' ({wanted})' if wanted else ''} with --base, or --against nothing"
        " to look at the adapter alone.",
    )


def _notes(opened: Opened, layers: list[LowRankLayer], changes: list[TensorChange]) -> Iterator[str]:
    adapter, held = opened.adapter, opened.base
    if held is None:
        yield "It was looked at alone (--against nothing): norms are not held against the base's."
    elif adapter.lock is None:
        yield "It has no lock: names and shapes fit this base, but whether it is the right one cannot be checked."
    if adapter.lock is not None and adapter.lock.quantization and held is not None:
        yield "It was trained over a quantised base; it is held against the weights before they were quantised."
    if held is not None and layers and any(one.kind == "update" and one.weight_norm is None for one in layers):
        yield "Some of the base's weights are stored in a way that cannot be read as numbers: their norms are missing."
    start = adapter.config.get("init_lora_weights", True)
    if layers and opened.method.loading(adapter.config) == "into":
        yield (
            f"init_lora_weights={start!r} moves a part of the base's weights into A and B before training: B A holds "
            "that part too, so its norm and directions are not those of what was learnt."
        )
    if any(one.change_norm is not None for one in layers):
        yield "With DoRA 'moved' is the whole change, with the trained lengths; the singular values are those of B A."
    if any(one.kind == "network" for one in layers):
        yield (
            "A network's update is the product of its two matrices, as if nothing non-linear stood between them; it is "
            "held against the identity, so 'moved' is what it would add to what goes through it."
        )
    if held is not None and (new := [one.name for one in changes if one.role == "new"]):
        more = f" and {len(new) - 1} more" if new[1:] else ""
        yield f"The base holds no {new[0]}{more}: it is new, so nothing can be said to have moved there."
    if others := sorted({one.name.rpartition(".")[2] for one in changes if one.role == "other"}):
        yield f"Where {', '.join(others)} started is not in the adapter, so only norms are shown."


def _barely(moved: Sequence[tuple[str, float | None]]) -> list[str]:
    known = [(name, value) for name, value in moved if value is not None]
    if not known:
        return []
    usual = median(value for _, value in known)
    return [name for name, value in known if value < BARELY * usual or value == 0]


def plain_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
