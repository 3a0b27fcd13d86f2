"""What happens in a model when a few tokens go through it: which layers are called, with what, and what feeds what.

Hooks on the layers note each call. In between, a mode of torch sees every function, so that each tensor carries a mark:
the layers that it was made from. From the marks follows what no name tells: the layers whose outputs are compared with
each other and go through a softmax are queries and keys; what is weighted by the result are values; what a top-k is
taken of is a router. Then a gradient goes back from the answer, and each layer that it arrives at is noted: one that
only chooses positions or experts gets none, so nothing could be trained on it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from hfplug.models.layout import block_of, is_linear, linear_shape
from hfplug.models.meta_answers import answer_on_meta
from hfplug.models.seen import Trace as Trace
from hfplug.models.shortened import shortened, tell_of_all
from hfplug.models.tryout import few_tokens, first_line, on_meta
from hfplug.models.undisturbed import undisturbed

# Enough for layers that bring some tokens together before they do anything.
_TOKENS = 16
_PRODUCTS = {"matmul", "bmm", "einsum", "baddbmm", "__matmul__", "__rmatmul__"}
_CHOICES = {"topk", "argmax"}
_RUNNING_SUMS = {"cumsum", "cumprod", "conv1d", "fft", "rfft", "conv2d"}


class Mark(NamedTuple):
    """Where a tensor comes from.

    Attributes:
        sources: The layers that it was made from, back to the last layer on each way.
        compared: If it holds products of two such tensors: the sources of both.
        weighs: Whether it is a softmax of such products: what says how much of each position is taken.
        attended: Whether positions were weighed to make it.
    """

    sources: frozenset[str] = frozenset()
    compared: tuple[frozenset[str], frozenset[str]] | None = None
    weighs: bool = False
    attended: bool = False


def trace(model: nn.Module, *, mode: Literal["eval", "train"] = "eval") -> Trace:
    """Run a model once on a few tokens, and note what happens.

    Args:
        model: A transformers model, on any device, ``meta`` included. Its mode, hooks, gradients and buffers are left
            as they were, and so are the random numbers.
        mode: In which it runs. Some write into their weights in training mode, so that is for ``meta``.

    Returns:
        What was seen, up to where the run ended. Blocks that others spoke for were seen as those.
    """
    with shortened(model) as spoken_for:
        seen = _trace(model, mode)
    if not spoken_for:
        return seen
    if seen.ended != "whole":  # the model counts its blocks
        return _trace(model, mode)
    tell_of_all(vars(seen), spoken_for)
    return seen


def _trace(model: nn.Module, mode: str) -> Trace:
    seen = Trace()
    flow = _Flow(model, seen)
    with undisturbed(model), flow.hooked():
        model.train(mode == "train")
        try:
            inputs = few_tokens(model, _TOKENS)
            if on_meta(model):
                inputs.pop("attention_mask", None)  # whether all of it is ones is a question that meta cannot answer
            with flow:
                output = model(**inputs, **_no_cache(model))
        except Exception as error:  # a model of any kind, on any device: what was seen until then is used
            seen.ended = f"{type(error).__name__}: {first_line(error)}"
        else:
            seen.learning = flow.learning(output)
            if seen.learning is not None:
                seen.recomputed.clear()  # they only choose, or repeat a block
    return seen


def _no_cache(model: Any) -> dict[str, Any]:
    import inspect

    known = inspect.signature(model.forward).parameters
    return {"use_cache": False} if "use_cache" in known else {}


class _Flow(TorchFunctionMode):
    """Marks each tensor with where it comes from, and writes down what follows from the marks."""

    def __init__(self, model: nn.Module, seen: Trace) -> None:
        super().__init__()
        self.seen = seen
        self.model = model
        self.marks: Any = WeakIdKeyDictionary()
        self.running: list[str] = []
        self.starts: dict[str, list[torch.Tensor]] = {}
        self.arrived: set[str] = set()
        self.moved: set[str] = set()
        self.layers = {name: module for name, module in model.named_modules() if _is_layer(module)}
        self.owners: dict[int, list[tuple[str, str]]] = {}
        for name, module in model.named_modules():
            for own, parameter in module.named_parameters(recurse=False):
                self.owners.setdefault(id(parameter), []).append((name, own))

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """With hooks on every layer that holds weights."""
        handles = []
        try:
            for name, module in self.model.named_modules():
                if name not in self.layers and any(True for _ in module.parameters(recurse=False)):
                    handles.append(module.register_forward_hook(self._count(name)))
            for name, module in self.layers.items():
                handles.append(module.register_forward_pre_hook(self._before(name)))
                handles.append(module.register_forward_hook(self._after(name)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.running.append(name)
            if not torch.is_grad_enabled():
                self.seen.recomputed.add(name)
            if is_linear(module):
                mark = self._mark_of(_tensors(args))
                self.seen.fed_by.setdefault(name, set()).update(mark.sources)
                if mark.attended:
                    self.seen.fed_attended.add(name)

        return hook

    def _count(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            self.seen.calls[name] = self.seen.calls.get(name, 0) + 1
            return self._awaited(name, output)

        return hook

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if self.running and self.running[-1] == name:
                self.running.pop()
            self.seen.calls[name] = self.seen.calls.get(name, 0) + 1
            if is_linear(module):
                if not _is_matrix_product(module, args, output):
                    self.seen.tuples.add(name)
            elif isinstance(module, nn.modules.conv._ConvNd):
                self._mix(self._mark_of(_tensors(args)).sources)
            elif all(parameter.dim() < 2 for parameter in module.parameters(recurse=False)):
                return self._awaited(name, output)  # a norm: what comes out is from where it came
            awaited = self._awaited(name, output)
            for tensor in _tensors((output if awaited is None else awaited,)):
                self.marks[tensor] = Mark(frozenset((name,)))
            return awaited

        return hook

    def _awaited(self, name: str, output: Any) -> Any:
        """Note a gradient that comes back to a layer's output; what to give on in its place, or None."""
        if type(output) is tuple and not any(tensor.requires_grad for tensor in _tensors(output)):
            # I-BERT's layers give their scale beside what they compute.
            given = ((one, self._awaited(name, one)) for one in output)
            return tuple(one if awaited is None else awaited for one, awaited in given)
        if isinstance(output, torch.Tensor) and output.is_floating_point() and not output.requires_grad:
            # Nothing before it is trained: it is where gradients end. Copied, as some models write into it.
            start = output.detach().requires_grad_(True)
            self.starts.setdefault(name, []).append(start)
            return start.clone()
        copied = None
        if isinstance(output, torch.Tensor) and output.requires_grad and output._is_view():
            output = copied = output.clone()  # of a 4-bit layer; it may not be written into either
        for tensor in _tensors((output,)):
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: self._arrive(name, gradient))
        return copied

    def _arrive(self, name: str, gradient: torch.Tensor) -> None:
        self.arrived.add(name)
        if gradient.device.type == "meta" or bool(gradient.any()):
            self.moved.add(name)

    def learning(self, output: Any) -> set[str] | None:
        """The layers that a gradient arrives at from the answer, or None if there is none."""
        values = output.items() if hasattr(output, "items") else ()
        answers = [value for key, value in values if key.endswith("logits") and isinstance(value, torch.Tensor)]
        starts = [one for many in self.starts.values() for one in many]
        try:
            # A sum, as gradients of a mean over a large vocabulary would be zero in float16.
            total = torch.stack([one.float().square().sum() for one in answers]).sum()
            given = torch.autograd.grad(total, starts, allow_unused=True)
        except Exception:  # a model of any kind: then it is not known
            return None
        gradients = {id(start): gradient for start, gradient in zip(starts, given, strict=True) if gradient is not None}
        for name, many in self.starts.items():
            for one in many:
                if id(one) in gradients:
                    self._arrive(name, gradients[id(one)])
        # What a zero weight multiplies learns nothing either, but if all is zero that says nothing.
        return self.moved or self.arrived

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        result = answer_on_meta(name, args)
        if result is NotImplemented:
            result = func(*args, **kwargs)
        given = _tensors((result,))
        if not given:
            return result
        fed = _tensors((*args, *kwargs.values()))
        mark = self._name(name, fed)
        if mark.sources:
            for tensor in given:
                self.marks[tensor] = mark
        return result

    def _name(self, function: str, fed: list[torch.Tensor]) -> Mark:
        """The mark of what a function gives; what the function says about its inputs is written down."""
        for tensor in fed:
            if isinstance(tensor, nn.Parameter):
                self._note_parameter(tensor)
        known = [self.marks[tensor] for tensor in fed if tensor in self.marks]
        if not known:
            return Mark()
        if function == "scaled_dot_product_attention" and len(known) >= 3:
            self._attend(known[0].sources, known[1].sources, known[2].sources)
            return Mark(_union(known[:3]), attended=True)
        mark = Mark(
            _union(known),
            compared=next((one.compared for one in known if one.compared), None),
            weighs=any(one.weighs for one in known),
            attended=any(one.attended for one in known),
        )
        if function in _CHOICES:
            self._choose(mark)
        if function == "softmax" and mark.compared is not None:
            return mark._replace(weighs=True)
        if function in _PRODUCTS and len(known) >= 2:
            left, right = known[0], known[1]
            if left.weighs != right.weighs:
                weights, values = (left, right) if left.weighs else (right, left)
                assert weights.compared is not None
                query, key = weights.compared
                self._attend(query, key, values.sources)
                return Mark(mark.sources, attended=True)
            self._mix(mark.sources)
            return mark._replace(compared=(left.sources, right.sources))
        if function in _RUNNING_SUMS:
            self._mix(mark.sources)
        return mark

    def _choose(self, mark: Mark) -> None:
        """A top-k inside a layer, or of the output of one layer, is a choice among experts; of products it is not."""
        if self.running and not is_linear(self.layers[self.running[-1]]):
            self.seen.routers.add(self.running[-1])
        elif len(mark.sources) == 1 and mark.compared is None:
            self.seen.routers |= mark.sources

    def _mix(self, sources: frozenset[str]) -> None:
        """Positions are brought together; of the stream that runs past all blocks, that says nothing of one of them."""
        blocks = {block_of(name) for name in sources}
        if len(blocks) == 1 and "" not in blocks:
            self.seen.mixed |= sources

    def _attend(self, query: frozenset[str], key: frozenset[str], value: frozenset[str]) -> None:
        self.seen.query |= query
        self.seen.key |= key
        self.seen.value |= value

    def _note_parameter(self, parameter: nn.Parameter) -> None:
        owners = self.owners.get(id(parameter), [])
        if not any(owner in self.running for owner, _ in owners):
            self.seen.read_directly.update(f"{owner}.{own}" for owner, own in owners if owner in self.layers)

    def _mark_of(self, tensors: list[torch.Tensor]) -> Mark:
        known = [self.marks[tensor] for tensor in tensors if tensor in self.marks]
        return Mark(_union(known), attended=any(one.attended for one in known))


def _is_layer(module: nn.Module) -> bool:
    """Whether a module has weights of its own and nothing within it."""
    return not any(True for _ in module.children()) and any(True for _ in module.parameters(recurse=False))


def _is_matrix_product(module: nn.Module, args: tuple[Any, ...], output: Any) -> bool:
    fed = args[0] if args else None
    if not isinstance(output, torch.Tensor) or not isinstance(fed, torch.Tensor):
        return False
    into, out = linear_shape(module)
    return (*fed.shape[:-1], fed.shape[-1]) == (*output.shape[:-1], into) and output.shape[-1] == out


def _union(marks: list[Mark]) -> frozenset[str]:
    if len(marks) == 1:
        return marks[0].sources
    return frozenset().union(*(mark.sources for mark in marks))


def _tensors(values: Any) -> list[torch.Tensor]:
    """The tensors in a tuple of arguments, and in lists and tuples among them."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [one for one in value if isinstance(one, torch.Tensor)]
    return found
