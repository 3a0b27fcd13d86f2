"""What vLLM takes of an adapter, and the command that serves it.

The facts are those of vLLM 0.33.0, read from its source: the ranks from ``vllm/config/lora.py`` (``MaxLoRARanks``),
what an adapter may hold from ``vllm/lora/peft_helper.py`` (``PEFTHelper``), the names of its tensors from
``vllm/lora/utils.py`` (``parse_fine_tuned_lora_name``), and the architectures from
``vllm/model_executor/models/registry.py``: those text generation models whose class is a ``SupportsLoRA``. vLLM itself
is not needed here, and the command has not been run by us.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.plain_lora import more_than_lora
from hfplug.adapters.safetensors_header import read_header
from hfplug.errors import MethodError
from hfplug.methods.method import CAUSAL
from hfplug.models.base import Base

VERSION = "0.33.0"
MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

_TAKES_LORA = frozenset(
    {
        "AXK1ForCausalLM", "AfmoeForCausalLM", "AliceAIForCausalLM", "ApertusForCausalLM", "BailingMoeForCausalLM",
        "BailingMoeV2ForCausalLM", "ChatGLMForConditionalGeneration", "ChatGLMModel", "Cohere2ForCausalLM",
        "CohereForCausalLM", "DeciLMForCausalLM", "DeepseekForCausalLM", "DeepseekV2ForCausalLM",
        "DeepseekV3ForCausalLM", "Ernie4_5ForCausalLM", "Ernie4_5_MoeForCausalLM", "Exaone4ForCausalLM",
        "ExaoneForCausalLM", "ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM", "FalconH1ForCausalLM",
        "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma4ForCausalLM", "GemmaForCausalLM", "Glm4ForCausalLM",
        "Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM", "GptOssForCausalLM", "GraniteForCausalLM",
        "GraniteMoeForCausalLM", "GraniteMoeHybridForCausalLM", "GraniteMoeSWAForCausalLM",
        "GraniteMoeSharedForCausalLM", "GraniteSWAForCausalLM", "HYV3ForCausalLM", "HyperCLOVAXForCausalLM",
        "IQuestCoderForCausalLM", "InternLM2ForCausalLM", "InternLM3ForCausalLM", "JambaForCausalLM",
        "K2HorizonForCausalLM", "LLaMAForCausalLM", "LagunaForCausalLM", "Lfm2ForCausalLM", "Lfm2MoeForCausalLM",
        "Llama4ForCausalLM", "LlamaForCausalLM", "LongcatFlashForCausalLM", "LongcatFlashNgramForCausalLM",
        "MiMoForCausalLM", "MiniCPM3ForCausalLM", "MiniCPMForCausalLM", "MiniMaxM2ForCausalLM",
        "Ministral3ForCausalLM", "MistralForCausalLM", "MistralLarge3ForCausalLM", "MixtralForCausalLM",
        "MuseGlimmerForCausalLM", "NemotronForCausalLM", "NemotronHForCausalLM", "NemotronHPuzzleForCausalLM",
        "OPTForCausalLM", "OlmoHybridForCausalLM", "OlmoeForCausalLM", "PanguEmbeddedForCausalLM",
        "PanguProMoEV2ForCausalLM", "PanguUltraMoEForCausalLM", "Param2MoEForCausalLM", "Phi3ForCausalLM",
        "PhiMoEForCausalLM", "Plamo3ForCausalLM", "Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM", "Qwen3NextForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM",
        "Rnj1ForCausalLM", "SarvamMLAForCausalLM", "SarvamMoEForCausalLM", "SolarForCausalLM",
        "TeleChat2ForCausalLM", "TeleChat3ForCausalLM", "TeleFLMForCausalLM",
    }
)  # fmt: skip
_TENSOR = re.compile(r"base_model\.model\..*\.(lora_[AB]\.weight|lora_embedding_[AB])")


@dataclass(frozen=True, kw_only=True)
class VllmFit:
    """How an adapter goes into vLLM.

    Attributes:
        rank: Its highest rank.
        max_lora_rank: The smallest value of ``--max-lora-rank`` that holds it.
        backend: ``"auto"``, or ``"transformers"`` where vLLM's own class of the base takes no LoRA.
        notes: What whoever serves it should know.
    """

    rank: int
    max_lora_rank: int
    backend: str
    notes: tuple[str, ...] = ()


def check_vllm(adapter: AdapterDir, base: Base) -> VllmFit:
    """Whether vLLM takes an adapter, from its configuration, the names and shapes of its tensors, and its base.

    Args:
        adapter: An adapter of PEFT.
        base: Its base.

    Raises:
        MethodError: It does not, with the reason and what to do instead.
    """
    if reason := _why_not(adapter, base):
        raise MethodError(
            f"vLLM {VERSION} does not take this adapter: {reason}.",
            fix="Type the same command with --for merged: a merged model needs no adapter."
            if _can_be_merged(adapter)
            else "Serve it with hfplug.Service, or train lora, which vLLM takes.",
        )
    rank = max(_ranks(adapter))
    fitting = [value for value in MAX_LORA_RANKS if value >= rank]
    if not fitting:
        raise MethodError(
            f"The adapter has rank {rank}; vLLM {VERSION} takes ranks up to {MAX_LORA_RANKS[-1]}.",
            fix="Type the same command with --for merged, or train with a lower r.",
        )
    backend, notes = _backend(base)
    lock = adapter.lock
    if lock is not None and lock.quantization:
        notes.append(
            "It was trained over a base in 4 bits; the command serves it over the unquantised one. To serve it as it"
            " was trained, add: --quantization bitsandbytes"
        )
    return VllmFit(rank=rank, max_lora_rank=fitting[0], backend=backend, notes=tuple(notes))


def serve_command(folder: Path, base: Base, fit: VllmFit, *, name: str, tokenizer: str = "base") -> str:
    """The command that serves an exported adapter.

    Args:
        folder: Where it was exported to.
        base: Its base.
        fit: From :func:`check_vllm`.
        name: What requests call it.
        tokenizer: ``"own"`` if the adapter brings a tokenizer along.
    """
    words = ["vllm", "serve", base.name]
    if base.commit:
        words += ["--revision", base.commit]
        if tokenizer == "base":
            words += ["--tokenizer-revision", base.commit]
    if tokenizer == "own":
        words += ["--tokenizer", str(folder)]
    if fit.backend != "auto":
        words += ["--model-impl", fit.backend]
    words += ["--enable-lora", "--max-lora-rank", str(fit.max_lora_rank), "--lora-modules"]
    # The short form ends at a comma.
    short = "," not in f"{name}{folder}" and "=" not in name
    words.append(f"{name}={folder}" if short else json.dumps({"name": name, "path": str(folder)}))
    return shlex.join(words)


def _why_not(adapter: AdapterDir, base: Base) -> str:
    config = adapter.config
    kind = str(config.get("peft_type")).upper()
    if kind != "LORA":
        return f"it is of type {kind}, and vLLM takes LoRA only"
    if getattr(base.config, "is_encoder_decoder", False):
        return f"its base is an encoder-decoder ({base.config.model_type}), which vLLM does not serve"
    task = config.get("task_type")
    if task not in (None, CAUSAL):
        return f"it is for {task}, and this command serves text generation"
    if config.get("fan_in_fan_out") or base.config.model_type == "gpt2":
        return "its layers hold their weights as (in, out) (Conv1D), and vLLM has no LoRA for those"
    # vLLM refuses some of that, and does not know the rest and would leave it out in silence.
    if more := more_than_lora(config):
        return more
    strange = next((name for name in adapter.tensor_names() if not _TENSOR.fullmatch(name)), None)
    return f"its tensor {strange!r} is no part of a LoRA" if strange else ""


def _can_be_merged(adapter: AdapterDir) -> bool:
    from hfplug.adapters.foreign import method_of

    return not method_of(adapter).merging.startswith("no")


def _ranks(adapter: AdapterDir) -> list[int]:
    """The ranks of all pairs, from the shapes of A."""
    headers: dict[str, Any] = {name: entry for file in adapter.weights for name, entry in read_header(file).items()}
    endings = (".lora_A.weight", ".lora_embedding_A")
    return [int(entry["shape"][0]) for name, entry in headers.items() if name.endswith(endings)]


def _backend(base: Base) -> tuple[str, list[str]]:
    architecture = next(iter(getattr(base.config, "architectures", None) or ()), "")
    if architecture in _TAKES_LORA:
        return "auto", []
    note = (
        f"{architecture or 'The class of the base'} is not among the models that take LoRA in vLLM {VERSION} itself, so"
        " the command asks for its Transformers backend, which does. If that fails: --for merged"
    )
    return "transformers", [note]
