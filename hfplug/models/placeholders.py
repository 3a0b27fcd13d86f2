"""Soft prompts on models that want to see ids: the vectors take the place of placeholder ids when these are embedded.

PEFT hands a prompt and the embedded text to the base as ``inputs_embeds``. Some models refuse that (a T5 classifier
looks for the end among the ids) or need the ids beside it (Gemma 4 looks them up once more in every layer). These are
called with ids instead, a placeholder for each vector, and what the embedding gives for the placeholders is exchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hfplug.errors import MethodError
from hfplug.methods import TuningMethod
from hfplug.models.anatomy import Anatomy
from hfplug.models.ends import input_embedding
from hfplug.models.own_embeddings import let_embeddings_compute
from hfplug.models.prefix_layout import lay_out_prefix
from hfplug.models.soft_outputs import see_to_outputs
from hfplug.models.soft_writing import see_to_writing
from hfplug.models.tryout import at_rest, few_tokens, ids_of_text, labelled, on_meta


def see_to_input(model: Any, method: TuningMethod, anatomy: Anatomy) -> None:
    """See to it that a base takes what a method hands to it, and that a gradient comes back.

    Args:
        model: What PEFT made of the base and the method.
        method: The method on it.
        anatomy: Of the base.
    """
    let_embeddings_compute(model)
    if anatomy.recomputed:
        ask_for_gradients(model.get_base_model())
    if method.input_kind == "vectors":
        let_ids_through(model)
        see_to_outputs(model)
        see_to_writing(model)
    elif method.input_kind == "prefix":
        lay_out_prefix(model)


def ask_for_gradients(base: Any) -> None:
    """Let what the input embedding gives ask for a gradient, though nothing before it is trained.

    Reversible layers (Reformer) compute their gradients themselves, and torch asks them to only if what goes into the
    first one wants a gradient; else all that is trained in them would stay as it is, without a word.

    Args:
        base: A transformers model; its embedding gets a hook, which does nothing where gradients are off.
    """
    first = input_embedding(base)
    if first is not None:
        first.register_forward_hook(_ask_for_gradient)


def _ask_for_gradient(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    if torch.is_grad_enabled() and isinstance(output, Tensor) and not output.requires_grad:
        output.requires_grad_(True)


def let_ids_through(model: Any) -> None:
    """See to it that a soft prompt's base gets ids, if embedded input does not do for it.

    Args:
        model: A ``PeftModel`` with a prompt that stands before the embedded input. Hooks are put on its base, which
            do nothing when the base is called with ids.

    Raises:
        MethodError: The base has no table of embeddings that vectors could stand in for.
    """
    base = model.get_base_model()
    if on_meta(base):
        return
    tables = tables_of(base)
    if not takes_embeddings(base, tables[0]):
        _Placeholders(base, tables, padding=bool(base.can_generate()))


def tables_of(base: Any) -> list[nn.Module]:
    """The modules that embed ids: the model's input embedding, and all that share its weight.

    Raises:
        MethodError: There is none.
    """
    first = input_embedding(base)
    weight = getattr(first, "weight", None)
    if first is None or not isinstance(weight, nn.Parameter):
        raise _without_table(base)
    return [first, *(one for one in base.modules() if one is not first and getattr(one, "weight", None) is weight)]


@contextlib.contextmanager
def showing_table(base: Any, method: TuningMethod) -> Iterator[None]:
    """Let PEFT find the embedding of a model that a prompt is put on before its embedded input.

    PEFT looks for ``embeddings.word_embeddings``, and then for a matrix with as many rows as the vocabulary. Mllama's
    and Moshi's have some more: there the embedding goes by that name meanwhile.

    Args:
        base: The model.
        method: The method that is put on it.

    Raises:
        MethodError: There is no embedding with a row for each id.
    """
    table: Any = input_embedding(base)
    found = table is None or hasattr(table, "num_embeddings")  # I-BERT's gives a vector with its scale
    if method.input_kind != "vectors" or (found and _has_rows_of_vocabulary(base)):
        yield
        return
    rows = getattr(base.config.get_text_config(), "vocab_size", None)
    if not isinstance(table, nn.Embedding) or hasattr(base, "embeddings") or not rows or table.num_embeddings < rows:
        raise _without_table(base)
    base.embeddings = nn.ModuleDict({"word_embeddings": table})
    try:
        yield
    finally:
        del base.embeddings


def _has_rows_of_vocabulary(base: Any) -> bool:
    """Whether PEFT finds a matrix with a row for each id that is not the output layer's alone."""
    rows = getattr(base.config.get_text_config(), "vocab_size", None)
    output = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    own = getattr(output, "weight", None)
    tied = own is not None and own is getattr(input_embedding(base), "weight", None)
    return any(one.dim() >= 2 and one.shape[0] == rows and (one is not own or tied) for one in base.parameters())


def _without_table(base: Any) -> MethodError:
    return MethodError(
        f"A soft prompt stands before a text's embeddings; this {base.config.model_type} model has no table with a row"
        " for each token.",
        fix="Use lora.",
    )


def takes_embeddings(base: Any, table: nn.Module) -> bool:
    """Whether a model does the same with embedded ids as with ids, and takes vectors that belong to no id.

    Args:
        base: The model; run three times on a few tokens and left as it was.
        table: What embeds its ids.
    """
    inputs = few_tokens(base)
    with at_rest(base), torch.no_grad():
        wanted = _answer(base(**inputs))
        ids = inputs.pop("input_ids")
        embedded = table(ids)
        try:
            got = _answer(base(inputs_embeds=embedded, **inputs))
            if "decoder_input_ids" in inputs:  # as in training
                del inputs["decoder_input_ids"]
                inputs |= labelled(base, ids)
            base(inputs_embeds=embedded * 1.5 + 0.1, **inputs)
        except Exception:  # any refusal of any model: then it is given ids
            return False
    return got.shape == wanted.shape and torch.allclose(got, wanted, rtol=1e-3, atol=1e-4)


def _answer(output: Any) -> Tensor:
    """The logits, or the starts of an extractive answer, or what else comes first."""
    found: Tensor = next((value for name, value in output.items() if name.endswith("logits")), output[0])
    return found


class _Placeholders:
    """Calls a base with ids in the place of embedded input, and puts the vectors in where they are embedded.

    Args:
        base: The model.
        tables: What embeds its ids.
        padding: Whether the placeholder is the padding's id, as generation pads on the left and the prompt follows.
    """

    def __init__(self, base: Any, tables: list[nn.Module], *, padding: bool) -> None:
        pad = getattr(base.config.get_text_config(), "pad_token_id", None)
        self.placeholder = int(pad) if padding and pad is not None else ids_of_text(base.config)[0]
        self.seen: Tensor | None = None
        self.expected: Tensor | None = None
        self.vectors: Tensor | None = None
        for table in tables:
            table.register_forward_hook(self._embed)
        base.register_forward_pre_hook(self._call, with_kwargs=True)
        base.register_forward_hook(self._forget, always_call=True)

    def _call(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        vectors, seen = kwargs.get("inputs_embeds"), self.seen
        if vectors is None or kwargs.get("input_ids") is not None or seen is None or args:
            return None
        front = vectors.shape[1] - seen.shape[1]
        if front < 0 or vectors.shape[0] != seen.shape[0]:
            return None
        before = seen.new_full((seen.shape[0], front), self.placeholder)
        self.expected, self.vectors = torch.cat([before, seen], dim=1), vectors
        rest = {name: value for name, value in kwargs.items() if name != "inputs_embeds"}
        return args, {**rest, "input_ids": self.expected}

    def _embed(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        ids = args[0] if args else None
        if not isinstance(ids, Tensor) or ids.is_floating_point():
            return None
        if self.expected is None or self.vectors is None:
            self.seen = ids
            return None
        length = self.expected.shape[1]
        if ids.shape[0] != self.expected.shape[0] or not torch.equal(ids[:, :length], self.expected):
            return None  # a decoder's own ids
        places = (self.expected == self.placeholder).unsqueeze(-1)
        front = torch.where(places, self.vectors.to(output.dtype), output[:, :length])
        return torch.cat([front, output[:, length:]], dim=1)  # Longformer pads what it is given

    def _forget(self, module: nn.Module, args: Any, output: Any) -> None:
        self.seen = self.expected = self.vectors = None
