"""One base in memory, and the variants on it: any method's adapters, and fully tuned models.

Each variant is a model of its own over the base's memory (``clones``), so a variant that runs alone is what PEFT makes
of a fresh base, and the base's own modules are never touched. Rows of several variants share a pass through a *router*
(``routing``) where that was shown, when they were attached, to give each row what it gets alone.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.load import find_tokenizer
from hfplug.adapters.probe import ProbeResult
from hfplug.adapters.put_on import LoadedBase
from hfplug.errors import ServingError, did_you_mean
from hfplug.methods import Quantization, TuningMethod
from hfplug.methods.method import CAUSAL, SEQ2SEQ
from hfplug.models.base import Base, read_task_type, resolve_base
from hfplug.models.factory import load_base
from hfplug.serving.attaching import AsStored, put_variant_on
from hfplug.serving.clones import bytes_beyond, memory_of
from hfplug.serving.decoding import make_generation_config
from hfplug.serving.places import Place, Ready, find_place, ready_base, ready_mixed
from hfplug.serving.proof import NEW_TOKENS, BaseProof, BaseState, compare_states, read_state
from hfplug.serving.routing import Router
from hfplug.serving.trial import greedy_config, set_up

logger = logging.getLogger(__name__)

BASE = "base"
MIXED = "mixed"


@dataclass(frozen=True, kw_only=True)
class Attached:
    """A variant on a resident base.

    Attributes:
        name: Its name here.
        adapter: Its folder.
        method: Its method.
        kind: ``"adapter"``, or ``"full"`` for a model whose every weight was trained.
        model: The ``PeftModel`` or transformers model; it shares the base's memory.
        tokenizer: The one of its folder, if that holds one, else the base's.
        trainable_parameters: Numbers that were trained.
        held_bytes: Memory that it holds beyond the base.
        disk_bytes: Size of its weights' files.
        batching: ``"mixed"`` if its rows may share a pass with other variants' rows, else ``"alone"``.
        batching_reason: Why, in words.
        probe: How far its answers are off from what its author saw; None if that was not asked for or is not known.
        notes: What else there is to know, in words.
    """

    name: str
    adapter: AdapterDir
    method: TuningMethod
    kind: Literal["adapter", "full"]
    model: nn.Module
    tokenizer: Any
    trainable_parameters: int
    held_bytes: int
    disk_bytes: int
    batching: Literal["mixed", "alone"]
    batching_reason: str
    probe: ProbeResult | None = None
    notes: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """Rows of which this is equal may share a pass."""
        return MIXED if self.batching == "mixed" else f"alone: {self.name}"


@dataclass(frozen=True)
class _Table:
    """All variants at one moment. Never changed: a pass keeps the one that it began with."""

    attached: Mapping[str, Attached] = field(default_factory=lambda: types.MappingProxyType({}))
    places: Mapping[str, Place] = field(default_factory=dict)
    router: Router | None = None


class Resident:
    """One base in memory, in one number format, and the variants on it.

    All calls may come from several threads. ``attach`` and ``detach`` do not disturb passes in flight: those keep what
    they started with.

    Attributes:
        base: Where the base came from.
        model: The base itself, in eval mode. Nothing is ever put on it.
        tokenizer: The base's tokenizer, or None if it has none.
        encoder_decoder: Whether it is an encoder and a decoder.
        base_bytes: Memory that the base holds.
        pad_token_id: What fills up the shorter rows of a batch.
    """

    def __init__(self, loaded: LoadedBase, tokenizer: Any = None) -> None:
        self._loaded = loaded
        self.base: Base = loaded.found
        self.model = loaded.model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.encoder_decoder = bool(self.model.config.is_encoder_decoder)  # type: ignore[union-attr]
        # It is masked, so that any would do.
        own: Any = self.model.generation_config
        self.pad_token_id = int(make_generation_config(own, tokenizer, {}).pad_token_id)  # type: ignore[arg-type]
        self._memory = memory_of([self.model])
        self.base_bytes = sum(self._memory.values())
        self._attaching = threading.Lock()
        self._table = _Table()
        self._bench = set_up(self.model, self.pad_token_id)
        self._state = self._read_state()

    @classmethod
    def load(
        cls,
        base: str | Path,
        *,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        quantization: Quantization | None = None,
        token: str | None = None,
        offline: Literal["auto", "on"] = "auto",
        trust_remote_code: bool = False,
    ) -> Resident:
        """Load a base and note what it is, so that it can be proved later.

        Args:
            base: Repo id or folder.
            revision: Branch, tag or commit.
            dtype: dtype of the weights; ``"auto"`` is that of the checkpoint, or float32 where this machine is slow
                in that.
            device: Where to put it, e.g. ``"cuda"``.
            quantization: How to store the weights, for QLoRA's variants.
            token: Access token for a private or gated base.
            offline: ``"on"`` asks no Hub: the cache only.
            trust_remote_code: Run modelling code from the base's repo.

        Raises:
            BaseModelError: The base cannot be found or read.
            ServingError: It does not generate text.
        """
        found = resolve_base(base, revision=revision, trust_remote_code=trust_remote_code, token=token, offline=offline)
        task_type = read_task_type(found.config)
        if task_type not in (CAUSAL, SEQ2SEQ):
            raise ServingError(
                f"The base {found.name!r} is a {task_type} model; it does not generate text.",
                fix="Pass a causal or an encoder-decoder language model.",
            )
        model, missing = load_base(
            found,
            task_type,
            AsStored(),
            dtype=dtype,
            device_map=None if device is None else {"": str(device)},
            token=token,
            offline=offline,
            quantization=quantization,
        )
        tokenizer = find_tokenizer(None, found, token=token, offline=offline)
        return cls(LoadedBase(model=model, found=found, task_type=task_type, missing=missing), tokenizer)

    @property
    def attached(self) -> Mapping[str, Attached]:
        """The variants by their names, as they are now; never changed afterwards."""
        return self._table.attached

    def attach(
        self,
        name: str,
        folder: str | Path,
        *,
        verify: Literal["probe", "lock"] = "probe",
        full: Literal["copy", "difference"] = "copy",
        merge: Literal["never", "always"] = "never",
    ) -> Attached:
        """Put a variant on; one of the same name is replaced in one step, and passes in flight keep the old one.

        Args:
            name: What to call it.
            folder: An adapter's folder, or that of a fully tuned model.
            verify: ``"lock"`` compares it with its lock, ``"probe"`` also asks it the probe's questions. Answers that
                differ are no error here: see ``Attached.probe``.
            full: How a fully tuned model is held: as tensors of its own, or as a difference to the base, in fewer
                bytes and with a small error that ``notes`` states.
            merge: ``"always"`` merges a variant that can be merged into weights of its own: faster alone, more memory.

        Raises:
            AdapterError: The folder holds no adapter, or one that was changed.
            MismatchError: It was made for another base.
            ServingError: The name cannot be used, or the variant does not fit the choices.
        """
        if name in (BASE, MIXED) or not name.strip():
            raise ServingError(f"A variant cannot be called {name!r}.", fix="Choose another name.")
        with self._attaching:
            choices: dict[str, Any] = {"verify": verify, "full": full, "merge": merge}
            made = put_variant_on(self._loaded, folder, self.tokenizer, self._bench, **choices)
            table = self._table
            others = {
                other: place for other, place in table.places.items() if place.batching == "mixed" and other != name
            }
            because = made.alone_because
            place = find_place(self._bench, name, made.method, made.model, others, alone_because=because)
            variant = Attached(
                name=name,
                held_bytes=bytes_beyond([made.model], self._memory),
                batching=place.batching,
                batching_reason=place.reason,
                adapter=made.adapter,
                method=made.method,
                kind=made.kind,
                model=made.model,
                tokenizer=made.tokenizer,
                trainable_parameters=made.trainable_parameters,
                disk_bytes=made.adapter.weight_bytes,
                probe=made.probe,
                notes=made.notes,
            )
            self._replace({**table.attached, name: variant}, {**table.places, name: place})
        return variant

    def detach(self, name: str) -> None:
        """Take a variant off; its memory is freed when the last pass that uses it is over.

        Raises:
            ServingError: There is none of that name.
        """
        with self._attaching:
            table = self._table
            self._variant(table, name)
            self._replace(
                {other: one for other, one in table.attached.items() if other != name},
                {other: one for other, one in table.places.items() if other != name},
            )

    def group_of(self, name: str) -> str:
        """Which rows may share a pass: those whose group is the same text.

        Args:
            name: ``"base"`` or a variant.

        Raises:
            ServingError: There is none of that name.
        """
        if name == BASE:
            return BASE
        return self._variant(self._table, name).group

    def passes(self, names: Sequence[str], prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """How rows of one group have to be spread over passes: all in one, unless that changes their answers.

        That was tried when the base was loaded and when the variant was attached. Some models count positions past the
        padding, so that rows need one length; some models and methods give a row another answer beside any other row.

        Args:
            names: The variant of each row.
            prompts: Token ids of each row.

        Returns:
            Indices of rows, a list a pass.
        """
        return self._passes(self._table, names, prompts)

    @contextlib.contextmanager
    def ready(self, names: Sequence[str], prompts: Sequence[Sequence[int]], *, beams: int = 1) -> Iterator[Ready]:
        """Make a batch ready for one call of ``generate`` in this thread, inside the block.

        Args:
            names: The variant of each row, or ``"base"``; all of one group.
            prompts: Token ids of each row.
            beams: ``num_beams`` of the generation.

        Yields:
            What to call, and with what.

        Raises:
            ServingError: A name is unknown, the rows are of several groups or passes, or a prompt is empty.
        """
        table = self._table
        self._check_rows(table, names, prompts)
        if len(self._passes(table, names, prompts)) > 1:
            raise ServingError(
                f"These {len(names)} rows cannot share a pass: beside one another their answers change.",
                fix="Ask for each list of rows that passes(names, prompts) gives apart.",
            )
        if names[0] == BASE:
            block = ready_base(self.model, prompts, self.pad_token_id)
        elif len(set(names)) == 1:
            block = table.places[names[0]].ready(self.model, prompts, self.pad_token_id, beams)
        else:
            assert table.router is not None
            seats = [table.places[name].seat for name in names]
            block = ready_mixed(table.router, seats, self.model, prompts, self.pad_token_id, beams)
        with block as ready:
            yield ready

    def prove_base(self) -> BaseProof:
        """Compare the base with what it was when it was loaded: weights, modules, logits and answers, bit for bit."""
        return compare_states(self._state, self._read_state)

    # ------------------------------------------------------------------------------------------------- parts

    def _variant(self, table: _Table, name: str) -> Attached:
        variant = table.attached.get(name)
        if variant is None:
            known = [BASE, *table.attached]
            guess = did_you_mean(name, known)
            raise ServingError(f"There is no variant {name!r}.", fix=f"{guess} There are: {', '.join(known)}.".strip())
        return variant

    def _replace(self, attached: dict[str, Attached], places: dict[str, Place]) -> None:
        mixed = {name: place.seat for name, place in places.items() if place.batching == "mixed"}
        trees = {name: (seat.tree, seat.changed) for name, seat in mixed.items()}
        router = Router(self.model, trees) if len(trees) > 1 else None
        self._table = _Table(types.MappingProxyType(attached), places, router)

    def _passes(self, table: _Table, names: Sequence[str], prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        alone = any(table.places[name].rows == "one" for name in {*names} if name in table.places)
        if alone or self._bench.together == "none":
            return [[row] for row in range(len(names))]
        if self._bench.together == "any":
            return [list(range(len(names)))]
        found: dict[int, list[int]] = {}
        for row, (name, prompt) in enumerate(zip(names, prompts, strict=True)):
            virtual = table.places[name].seat.virtual if name in table.places else 0
            found.setdefault(virtual + len(prompt), []).append(row)
        return list(found.values())

    def _check_rows(self, table: _Table, names: Sequence[str], prompts: Sequence[Sequence[int]]) -> None:
        if not names or len(names) != len(prompts) or not all(len(prompt) for prompt in prompts):
            raise ServingError(
                f"{len(names)} names and {len(prompts)} prompts came; each row needs a name and a prompt of one token"
                " or more."
            )
        groups = {BASE if name == BASE else self._variant(table, name).group for name in names}
        if len(groups) > 1:
            raise ServingError(f"These rows cannot share a pass: {', '.join(sorted(groups))}.", fix="Ask them apart.")

    def _read_state(self) -> BaseState:
        rows = int(self.model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
        return read_state(self.model, rows, self._ask_base)

    def _ask_base(self, prompt: list[int]) -> tuple[list[int], torch.Tensor]:
        """The base's greedy answer and the logits of each of its steps."""
        with self.ready([BASE], [prompt]) as ready, torch.inference_mode():
            output = ready.model.generate(  # type: ignore[operator]
                **ready.inputs, generation_config=greedy_config(ready.model, self.pad_token_id, NEW_TOKENS)
            )
        return output.sequences[0, ready.prompt_length :].tolist(), torch.cat(output.logits).float().cpu()
