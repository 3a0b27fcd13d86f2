"""A batch whose rows belong to different variants, in one pass through one model.

A :class:`Router` is one more clone of the base. Wherever a variant has a module that is not the base's, a
:class:`Routed` module stands, which sends each row of the batch to the module of its own variant. For plain LoRA it
computes the base's product once for all rows and adds ``B A x * scale`` on each variant's rows, as PEFT does for one.
Which row belongs to whom is set for one pass in one thread (:meth:`Router.rows`), so passes do not see each other.

What cannot be cut by rows is refused by a :class:`CannotRoute`: a module whose input's first dimension is not the
batch, or that is handed a cache. That is found when a variant is attached (``trial``).
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hfplug.errors import ServingError
from hfplug.serving.clones import replaced_methods, share
from hfplug.serving.low_rank import LowRank, low_rank_of

Rows = tuple[int, ...]


class CannotRoute(ServingError):
    """A batch of several variants cannot be cut by rows in this model."""


class Pass:
    """One batch on its way through a router.

    Attributes:
        owners: The variant of each row, None for the base's own modules.
        vectors: For each row the vectors that stand before its prompt, or None.
        starts: For each row the position at which they start.
        width: Length of the padded batch that they are put into.
        beams: Beams of each row; ``generate`` repeats the rows that often, one after the other.
        plans: What each routed module worked out for this batch.
    """

    def __init__(
        self,
        owners: Sequence[str | None],
        *,
        vectors: Sequence[Tensor | None] = (),
        starts: Sequence[int] = (),
        width: int = 0,
        beams: int = 1,
    ) -> None:
        self.owners = tuple(owners)
        self.beams = beams
        self.vectors = tuple(vectors)
        self.starts = tuple(starts)
        self.width = width
        self.plans: dict[tuple[int, int], _Plan] = {}

    def repeats(self, value: Any) -> int:
        """How often each row is there in what a module is called with: once, or once a beam."""
        rows = value.shape[0] if isinstance(value, Tensor) and value.dim() else 0
        return self.beams if rows == self.beams * len(self.owners) else 1

    def take_vectors(self, shape: torch.Size) -> Iterator[tuple[int, int, Tensor]]:
        """Row, position and vectors to put there, for the first embedding of the whole batch and never again."""
        times = self.beams if shape[0] == self.beams * len(self.owners) else 1
        if not self.vectors or tuple(shape) != (times * len(self.owners), self.width):
            return
        pending, self.vectors = self.vectors, ()
        for row, (start, vectors) in enumerate(zip(self.starts, pending, strict=True)):
            for beam in range(times if vectors is not None else 0):
                yield row * times + beam, start, vectors


_PASS: contextvars.ContextVar[Pass | None] = contextvars.ContextVar("hfplug_pass", default=None)


class Routed(nn.Module):
    """A module of the base, and those that variants have in its place.

    Args:
        shared: The base's module; rows of variants that have none of their own go through it.
        own: Variant to its own module.
    """

    def __init__(self, shared: nn.Module, own: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.shared = shared
        # Not registered: they are the variants', and stay what they are whatever is done to the router.
        object.__setattr__(self, "own", dict(own))
        thin = {name: low_rank_of(module) for name, module in own.items()}
        # Only where the layer's own base is the shared one: a trained bias in it would be lost.
        on_shared = [
            name for name, one in thin.items() if one and not changed_modules(shared, own[name].get_base_layer())
        ]  # type: ignore[operator]
        object.__setattr__(self, "thin", {name: thin[name] for name in on_shared})

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("shared"), name)  # callers read weight, in_features and the like

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        current = _PASS.get()
        if current is None:
            raise CannotRoute("A router was called outside of a pass.")
        x = args[0] if args else next(iter(kwargs.values()), None)
        times = current.repeats(x)
        plan = current.plans.get((id(self), times))
        if plan is None:
            owners = [owner for owner in current.owners for _ in range(times)]
            plan = current.plans[id(self), times] = _Plan(self, owners)
        if not plan.own and not plan.thin:
            return self.shared(*args, **kwargs)
        if not plan.own and len(args) == 1 and not kwargs and isinstance(x, Tensor) and x.shape[0] == plan.count:
            return plan.update.add(self.shared(x), x)
        return _by_rows(plan.modules, plan.count, args, kwargs)


class _Plan:
    """What one routed module does with the rows of one pass."""

    def __init__(self, routed: Any, owners: Sequence[str | None]) -> None:
        rows: dict[str | None, list[int]] = {}
        for row, owner in enumerate(owners):
            rows.setdefault(owner if owner in routed.own else None, []).append(row)
        self.modules = [(routed.shared if owner is None else routed.own[owner], tuple(r)) for owner, r in rows.items()]
        self.thin = [(routed.thin[owner], tuple(r)) for owner, r in rows.items() if owner in routed.thin]
        self.own = [owner for owner in rows if owner is not None and owner not in routed.thin]
        self.count = len(owners)
        self.update = _Update(self.thin, self.count)


class _Update:
    """The low-rank updates of a pass in one layer."""

    def __init__(self, parts: Sequence[tuple[LowRank, Rows]], count: int) -> None:
        self.parts = parts
        self.count = count
        self.joined: tuple[Tensor, Tensor, Tensor] | None = None

    def add(self, result: Tensor, x: Tensor) -> Tensor:
        """The base's product with each row's own update, both of shape (rows, …, out)."""
        dtype = result.dtype
        if x.dim() == 3 and x.shape[1] == 1 and len(self.parts) > 1:
            return self._add_joined(result, x).to(dtype)
        for part, rows in self.parts:
            if len(rows) == self.count:
                return (result + part.update(x)).to(dtype)
            place = _place(rows)
            result[place] = (result[place] + part.update(x[place])).to(dtype)
        return result

    def _add_joined(self, result: Tensor, x: Tensor) -> Tensor:
        """For one position a row: all variants' matrices as one, what is not a row's own masked out.

        Two products in place of two a variant; while the tokens come one by one, their number is what takes the time.
        """
        if self.joined is None:
            down = torch.cat([part.down for part, _ in self.parts])
            up = torch.cat([part.up * part.scale for part, _ in self.parts], dim=1)
            mask = torch.zeros(self.count, 1, down.shape[0], dtype=down.dtype, device=down.device)
            at = 0
            for part, rows in self.parts:
                mask[list(rows), :, at : at + part.down.shape[0]] = 1
                at += part.down.shape[0]
            self.joined = (down, up, mask)
        down, up, mask = self.joined
        thin = nn.functional.linear(x.to(down.dtype), down) * mask
        return result + nn.functional.linear(thin, up)


class Prompted(nn.Module):
    """An input embedding that puts each row's vectors where the batch has placeholders.

    Args:
        inner: The embedding, routed or not.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        embedded: Tensor = self.inner(ids, *args, **kwargs)
        current = _PASS.get()
        if current is not None:
            for row, start, vectors in current.take_vectors(ids.shape):
                embedded[row, start : start + vectors.shape[0]] = vectors.to(embedded.dtype)
        return embedded


class Router:
    """A clone of the base that sends rows to the modules of their variants.

    Args:
        base: The base; only read.
        trees: Variant to the base model with that variant's modules in it, and what :func:`changed_modules` says of it.

    Raises:
        CannotRoute: A variant is not a change of single modules.
    """

    def __init__(self, base: nn.Module, trees: Mapping[str, tuple[nn.Module, Sequence[str]]]) -> None:
        self.model = share(base)
        changed = {path for _, paths in trees.values() for path in paths}
        own: dict[str, dict[str, nn.Module]] = {}
        for name, (tree, paths) in trees.items():
            for path in paths:
                if not path:
                    raise CannotRoute(f"{name!r} changes the model as a whole.")
                # Where another variant changes more, this one's share of it is taken as a whole as well.
                above = next((one for one in _above(path) if one in changed), path)
                own.setdefault(above, {})[name] = tree.get_submodule(above)
        for path, modules in own.items():
            self._put(path, Routed(self.model.get_submodule(path), modules))
        embedding = self.model.get_input_embeddings().weight  # type: ignore[operator]
        holders = [
            path
            for path, module in self.model.named_modules(remove_duplicate=False)
            if isinstance(getattr(module, "shared", module), nn.Embedding)
            and getattr(module, "weight", None) is embedding
            and not any(isinstance(self.model.get_submodule(above), Routed) for above in _above(path))
        ]
        for path in holders:
            self._put(path, Prompted(self.model.get_submodule(path)))

    def _put(self, path: str, module: nn.Module) -> None:
        owner, _, key = path.rpartition(".")
        self.model.get_submodule(owner)._modules[key] = module

    @contextlib.contextmanager
    def rows(self, current: Pass) -> Iterator[nn.Module]:
        """The model, for one call of ``generate`` or ``forward`` in this thread.

        Args:
            current: Which row belongs to whom.
        """
        token = _PASS.set(current)
        try:
            yield self.model
        finally:
            _PASS.reset(token)


def changed_modules(base: nn.Module, tree: nn.Module, path: str = "") -> list[str]:
    """The uppermost modules of a tree that are not the base's.

    Args:
        base: The base's module.
        tree: The variant's module at the same place.
        path: Its name.

    Returns:
        Names; ``""`` is the model itself.
    """
    if not _is_alike(base, tree):
        return [path]
    found = []
    for key, child in base._modules.items():
        other = tree._modules[key]
        if child is not None and other is not None:
            found += changed_modules(child, other, f"{path}.{key}" if path else key)
    return found


def _is_alike(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules, their children left out, compute the same: class, tensors, hooks, own methods."""
    if type(one) is not type(other) or set(one._modules) != set(other._modules):
        return False
    if any((child is None) != (other._modules[key] is None) for key, child in one._modules.items()):
        return False
    for mine, theirs in ((one._parameters, other._parameters), (one._buffers, other._buffers)):
        if set(mine) != set(theirs) or not all(_is_same_memory(mine[key], theirs[key]) for key in mine):
            return False
    for hooks in ("_forward_hooks", "_forward_pre_hooks"):
        if len(vars(one)[hooks]) != len(vars(other)[hooks]):
            return False
    return replaced_methods(one) == replaced_methods(other)


def _is_same_memory(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def _above(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _place(rows: Rows) -> Any:
    """Rows as a slice where they are neighbours (a view, no copy), else as a list of indices."""
    return slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else list(rows)


def _by_rows(
    modules: Sequence[tuple[nn.Module, Rows]], count: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Each variant's own module on its own rows, and the results in the order of the batch."""
    if len(modules) == 1:
        return modules[0][0](*args, **kwargs)
    outputs = []
    for module, rows in modules:
        cut = _Cut(rows, count)
        outputs.append((rows, module(*map(cut, args), **{key: cut(value) for key, value in kwargs.items()})))
    return _joined(outputs, count)


class _Cut:
    """Cuts the rows of one variant out of what a module is called with."""

    def __init__(self, rows: Rows, count: int) -> None:
        self.rows, self.count = rows, count

    def __call__(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, Tensor) and value.dim():
            if value.shape[0] == self.count:
                return value[_place(self.rows)]
            if value.shape[0] == 1:
                return value
        shape = tuple(value.shape) if isinstance(value, Tensor) else ""
        raise CannotRoute(f"a module is called with a {type(value).__name__} {shape} that cannot be cut by rows")


def _joined(outputs: Sequence[tuple[Rows, Any]], count: int) -> Any:
    first = outputs[0][1]
    if isinstance(first, tuple):
        return tuple(_joined([(rows, output[at]) for rows, output in outputs], count) for at in range(len(first)))
    if first is None:
        return None
    if not isinstance(first, Tensor) or not first.dim():
        raise CannotRoute(f"a module returns a {type(first).__name__} that cannot be put together from rows")
    joined = first.new_empty((count, *first.shape[1:]))
    for rows, output in outputs:
        if output.shape[0] not in (1, len(rows)) or output.shape[1:] != first.shape[1:]:
            raise CannotRoute(f"a module returns {tuple(output.shape)} for {len(rows)} rows")
        joined[_place(rows)] = output.to(joined.dtype)
    return joined
