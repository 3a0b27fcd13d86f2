"""What to say of a model whose blocks hold no linear layer."""

from __future__ import annotations

from hfplug.errors import MethodError
from hfplug.methods.anatomy_view import AnatomyView


def check_has_linear_layers(method: str, anatomy: AnatomyView) -> None:
    """Refuse a model in whose blocks something else stands in for linear layers.

    Args:
        method: The name of the method.
        anatomy: The model.

    Raises:
        MethodError: with the classes of what stands there (I-BERT's ``QuantLinear``, SqueezeBERT's ``Conv1d``).
    """
    kinds = sorted({kind for _, kind in anatomy.others})
    if kinds:
        raise MethodError(
            f"{method} goes on linear layers, and the blocks of this {anatomy.model_type} model have none:"
            f" {', '.join(kinds)} stands there ({anatomy.others[0][0]}, for one).",
            fix="Use bottleneck, bitfit or norms, which go on any layer"
            + (", or lora, which goes on convolutions." if "Conv1d" in kinds else "."),
        )
