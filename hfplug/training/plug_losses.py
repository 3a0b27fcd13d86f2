"""Two losses that Trainer cannot find its way to under a soft prompt: smoothed labels and noisy embeddings."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


def smoothed_loss(
    trainer: Any, model: Any, inputs: Any, *, return_outputs: bool = False, num_items_in_batch: Any = None
) -> Any:
    """The loss with smoothed labels, shifted by one place where the base is a causal language model.

    Trainer asks ``base_model.model`` of a ``PeftModel`` for its class, which under a soft prompt is the backbone
    (``LlamaModel``) or absent (T5).

    Args:
        trainer: The Trainer.
        model: The model, wrapped or not.
        inputs: A batch with ``labels``; they are taken out, as Trainer does.
        return_outputs: Whether to return the outputs as well.
        num_items_in_batch: Labels of the whole accumulated batch.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    labels = inputs.pop("labels")
    passed = dict(inputs)
    if trainer.model_accepts_loss_kwargs and num_items_in_batch is not None:
        passed["num_items_in_batch"] = num_items_in_batch
    outputs = model(**passed)
    base = trainer.accelerator.unwrap_model(model).get_base_model()
    shifts = type(base).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    loss = trainer.label_smoother(outputs, labels, shift_labels=shifts, num_items_in_batch=num_items_in_batch)
    across = trainer.args.average_tokens_across_devices and trainer.model_accepts_loss_kwargs
    if across and num_items_in_batch is not None:
        loss = loss * (trainer.accelerator.num_processes if trainer.args.n_gpu <= 1 else trainer.args.n_gpu)
    return (loss, outputs) if return_outputs else loss


class NeftuneCallback(TrainerCallback):
    """NEFTune's noise (Jain et al. 2023) on the embedded input, where Trainer does not find the embedding.

    Args:
        alpha: ``neftune_noise_alpha``.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        from transformers.integrations.neftune import neftune_post_forward_hook

        embedding = model.get_base_model().get_input_embeddings()
        embedding.neftune_noise_alpha = self.alpha
        self._hook = embedding.register_forward_hook(neftune_post_forward_hook)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self._hook is not None:
            self._hook.remove()
            del model.get_base_model().get_input_embeddings().neftune_noise_alpha
            self._hook = None
