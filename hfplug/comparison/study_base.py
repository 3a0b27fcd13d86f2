"""The base of a study: scored untouched, and proved to be untouched when all is done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hfplug.adapters.fingerprint import combine_fingerprints, fingerprint_tensors
from hfplug.comparison.inputs import ScoredInputs, public_name
from hfplug.comparison.progress import Progress
from hfplug.comparison.study_folder import read_variant, write_predictions, write_variant
from hfplug.comparison.variants import BaseInfo, Variant
from hfplug.methods import TuningMethod
from hfplug.methods.full import Full
from hfplug.models.anatomy import count_parameters
from hfplug.models.factory import load_base
from hfplug.models.memory import weight_bytes
from hfplug.serving.generate import Generation, generate_texts

PROOF_ROWS = 4
PROOF_NEW_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a model says on the proof rows.

    Attributes:
        logits: Of the next token after each prompt, float32, shape (rows, vocabulary).
        answers: Greedy answers.
    """

    logits: torch.Tensor
    answers: list[str]

    def equals(self, other: Outputs) -> bool:
        """True if every bit is the same."""
        return self.answers == other.answers and torch.equal(self.logits, other.logits)


@dataclass(frozen=True, kw_only=True)
class BaseState:
    """The base as it is now.

    Attributes:
        info: What the report says of it.
        outputs: What it says on the proof rows.
        rows: How many those are.
        sha256: Over every weight and over ``outputs``.
        model: The model itself, or None if it was not kept.
    """

    info: BaseInfo
    outputs: Outputs
    rows: int
    sha256: str
    model: nn.Module | None


def read_base(inputs: ScoredInputs, *, keep: str = "model") -> BaseState:
    """Load the base anew and take its fingerprint.

    Args:
        inputs: What all columns share.
        keep: ``"model"`` to keep the loaded model, ``"nothing"`` to let go of it.
    """
    model = load_plain(inputs)
    outputs = outputs_on_proof_rows(inputs, model, method=None)
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + b"\0" + _bytes(tensor))
    digest.update(_bytes(outputs.logits) + json.dumps(outputs.answers).encode())
    info = BaseInfo(
        name=public_name(inputs.base.name),
        commit=inputs.base.commit,
        fingerprint=combine_fingerprints(fingerprint_tensors(model)),
        model_type=inputs.base.config.model_type,
        task_type=inputs.task_type,
        parameters=count_parameters(model),
        bytes=weight_bytes(model),
    )
    return BaseState(
        info=info,
        outputs=outputs,
        rows=min(PROOF_ROWS, len(inputs.evaluation)),
        sha256=digest.hexdigest(),
        model=model if keep == "model" else None,
    )


def let_go(state: BaseState) -> BaseState:
    """The state without the model, so that its memory is free for the next one."""
    return dataclasses.replace(state, model=None)


def load_plain(inputs: ScoredInputs) -> nn.Module:
    """The base as ``from_pretrained`` gives it, in eval mode, in the dtype of the comparison."""
    # The untouched base is held as full fine-tuning starts from it.
    model, _ = load_base(inputs.base, inputs.task_type, Full(), dtype=inputs.dtype)
    return model.eval()


def score_base(inputs: ScoredInputs, state: BaseState, progress: Progress) -> Variant:
    """Ask the untouched base every row, unless that was done before.

    Args:
        inputs: What all columns share.
        state: From :func:`read_base`, with the model.
        progress: Where to show it.
    """
    done = read_variant(inputs.folder, "base")
    if done is not None:
        progress.say("base: answers are there already")
        return done
    assert state.model is not None
    generation = ask(inputs, state.model, None, progress, "base")
    write_predictions(inputs.folder.predictions("base"), inputs.evaluation, generation.texts)
    variant = Variant(name="base", kind="base", **base_figures(state), **generation_figures("base", generation))
    write_variant(inputs.folder, variant)
    return variant


def base_figures(state: BaseState) -> dict[str, Any]:
    """The fields of a :class:`Variant` that the base itself fixes."""
    return {"total_parameters": state.info.parameters, "full_copy_bytes": state.info.bytes}


def ask(
    inputs: ScoredInputs,
    model: nn.Module,
    method: TuningMethod | None,
    progress: Progress,
    name: str,
    *,
    tokenizer: Any = None,
) -> Generation:
    """Ask a model every row of the evaluation.

    Args:
        inputs: What all columns share.
        model: The model.
        method: The method on it, or None for a base.
        progress: Where to show it.
        name: What to call it there.
        tokenizer: The model's own, if that is not the base's.
    """
    tokenizer = tokenizer if tokenizer is not None else inputs.tokenizer
    preprocessor = inputs.preprocessor(
        reserve=method.virtual_tokens() if method is not None else 0, tokenizer=tokenizer
    )
    prompts = [preprocessor.prompt(example.text).input_ids for example in inputs.evaluation]
    bar, advance = progress.counting(len(prompts), f"{name}: answers")
    began = time.perf_counter()
    with bar:
        generation = generate_texts(
            model,
            tokenizer,
            prompts,
            method=method,
            decoding=inputs.task.decoding,
            stop_token_ids=preprocessor.stop_token_ids,
            batch_size=inputs.eval_batch_size,
            on_batch=advance,
        )
    progress.say(f"{name}: {len(prompts)} rows answered in {time.perf_counter() - began:.1f} s")
    return generation


def generation_figures(name: str, generation: Generation) -> dict[str, Any]:
    """The fields of a :class:`Variant` that come from generating its texts."""
    return {
        "generated_tokens_per_second": generation.tokens_per_second,
        "first_token_seconds": generation.first_token_seconds,
        "mean_generated_tokens": sum(generation.tokens) / len(generation.tokens),
        "predictions": f"predictions/{name}.jsonl",
    }


def outputs_on_proof_rows(inputs: ScoredInputs, model: nn.Module, method: TuningMethod | None) -> Outputs:
    """What a model says on the first rows, one at a time, so that no padding is in play.

    Args:
        inputs: What all columns share.
        model: The model.
        method: The method that is on it and switched on, or None.
    """
    preprocessor = inputs.preprocessor()
    prompts = [preprocessor.prompt(example.text).input_ids for example in inputs.evaluation[:PROOF_ROWS]]
    logits = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device=next(model.parameters()).device)
        extra = {}
        if inputs.base.config.is_encoder_decoder:
            start = inputs.base.config.decoder_start_token_id
            extra["decoder_input_ids"] = torch.full_like(ids[:, :1], start if start is not None else 0)
        with torch.inference_mode():
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra)
        logits.append(output.logits[0, -1].float().cpu())
    generation = generate_texts(
        model,
        inputs.tokenizer,
        prompts,
        method=method,
        decoding={"max_new_tokens": PROOF_NEW_TOKENS, "do_sample": False, "num_beams": 1},
        stop_token_ids=preprocessor.stop_token_ids,
        batch_size=1,
    )
    return Outputs(logits=torch.stack(logits), answers=generation.texts)


def switched_off_equals_base(
    inputs: ScoredInputs, method: TuningMethod, model: nn.Module, base: BaseState
) -> bool | None:
    """Whether the tuned model with its method switched off says, bit for bit, what the base says.

    None where the question has no meaning: the base's own weights were trained, or it is held in 4 bits.

    Args:
        inputs: What all columns share.
        method: The method that is on the model.
        model: The tuned model.
        base: The untouched base.
    """
    if method.category == "all weights" or method.quantization() is not None:
        return None
    with method.switched_off(model) as plain:
        return outputs_on_proof_rows(inputs, plain, method=None).equals(base.outputs)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
