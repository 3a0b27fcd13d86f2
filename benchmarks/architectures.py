"""Every method on many architectures, as tiny models with random weights: does it train, save, load and switch off?

    python benchmarks/architectures.py
    python benchmarks/architectures.py --methods lora,ia3 --only t5,mamba --json sweep.jsonl

For each pair the method is put on, trained for three steps under Trainer with hfplug's callbacks (whose guard stops
where a trainable tensor gets no gradient), exported, loaded onto a fresh base (the logits must be those of the trained
model, within 1e-5) and switched off (the logits must be those of the base, bit for bit; not asked of classifiers, whose
head is random at every load, nor over 4 bits). Prints a line for each pair that does not work, and how many do. What is
refused in words is told from what crashes or differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from transformers import Trainer, TrainingArguments

import hfplug
from hfplug.models.factory import applied_to

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SHAPE, "num_key_value_heads": 2}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
BART = {"d_model": 32, "decoder_start_token_id": 2}
BART |= {f"{side}_layers": 2 for side in ("encoder", "decoder")}
BART |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
BART |= {f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")}
# Name: the task type, the configuration's class and its sizes.
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("causal", "GPT2Config", GPT),
    "gpt_neo": (
        "causal",
        "GPTNeoConfig",
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
    ),
    "gpt_neox": ("causal", "GPTNeoXConfig", SHAPE),
    "gptj": ("causal", "GPTJConfig", {**GPT, "rotary_dim": 8}),
    "llama": ("causal", "LlamaConfig", GROUPED),
    "qwen2": ("causal", "Qwen2Config", GROUPED),
    "qwen3": ("causal", "Qwen3Config", {**GROUPED, "head_dim": 8}),
    "mistral": ("causal", "MistralConfig", GROUPED),
    "gemma": ("causal", "GemmaConfig", {**GROUPED, "head_dim": 8}),
    "gemma2": ("causal", "Gemma2Config", {**GROUPED, "head_dim": 8}),
    "phi": ("causal", "PhiConfig", SHAPE),
    "phi3": ("causal", "Phi3Config", {**GROUPED, "pad_token_id": 0}),
    "opt": (
        "causal",
        "OPTConfig",
        {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32},
    ),
    "bloom": ("causal", "BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": ("causal", "FalconConfig", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "mixtral": ("causal", "MixtralConfig", {**GROUPED, "num_local_experts": 4}),
    "qwen2_moe": (
        "causal",
        "Qwen2MoeConfig",
        {**GROUPED, "num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    ),
    "mamba": ("causal", "MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}),
    "t5": ("seq2seq", "T5Config", T5),
    "mt5": ("seq2seq", "MT5Config", T5),
    "longt5": ("seq2seq", "LongT5Config", T5),
    "bart": ("seq2seq", "BartConfig", BART),
    "pegasus": ("seq2seq", "PegasusConfig", BART),
    "marian": ("seq2seq", "MarianConfig", {**BART, "pad_token_id": 0}),
    "bert": ("classification", "BertConfig", SHAPE),
    "roberta": ("classification", "RobertaConfig", SHAPE),
    "distilbert": ("classification", "DistilBertConfig", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    "deberta_v2": ("classification", "DebertaV2Config", SHAPE),
    "electra": ("classification", "ElectraConfig", {**SHAPE, "embedding_size": 32}),
    "albert": ("classification", "AlbertConfig", {**SHAPE, "embedding_size": 32}),
    "xlnet": ("classification", "XLNetConfig", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
    "modernbert": (
        "classification",
        "ModernBertConfig",
        {**SHAPE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "gpt2 classifier": ("classification", "GPT2Config", {**GPT, "pad_token_id": 0}),
    "llama classifier": ("classification", "LlamaConfig", {**GROUPED, "pad_token_id": 0}),
    "t5 classifier": ("classification", "T5Config", {**T5, "eos_token_id": 1}),
}
AUTO_CLASSES = {
    "causal": "AutoModelForCausalLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "classification": "AutoModelForSequenceClassification",
}
WORKS = "works"


def rows(task_type: str) -> list[dict[str, Any]]:
    """Eight rows of ten random ids; the last is the end token, as T5's classifier looks for one."""
    draw = torch.Generator().manual_seed(0)
    found = []
    for number in range(8):
        ids = [*torch.randint(3, 200, (9,), generator=draw).tolist(), 1]
        labels = {"causal": ids, "seq2seq": ids[:5], "classification": number % 2}[task_type]
        found.append({"input_ids": ids, "attention_mask": [1] * 10, "labels": labels})
    return found


def try_one(name: str, method: str, folder: Path) -> str:
    """``"works"``, or what is wrong; what is refused raises ``HfplugError``."""
    task_type, config, sizes = ARCHITECTURES[name]
    torch.manual_seed(0)
    auto = getattr(transformers, AUTO_CLASSES[task_type])
    auto.from_config(getattr(transformers, config)(vocab_size=200, **sizes)).save_pretrained(folder / "base")
    torch.manual_seed(1)
    model = hfplug.build_model(folder / "base", method, task_type=task_type)
    data = rows(task_type)
    arguments = TrainingArguments(
        str(folder / "out"),
        max_steps=3,
        save_steps=3,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=hfplug.adapter_callbacks())
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.train()
    batch = {key: torch.tensor([row[key] for row in data[:2]]) for key in ("input_ids", "attention_mask")}
    if task_type == "seq2seq":
        batch["decoder_input_ids"] = batch["input_ids"][:, :3]
    loaded = hfplug.load_adapter(folder / "out" / "adapter")
    with torch.no_grad():
        trained, again = trainer.model.eval()(**batch).logits, loaded(**batch).logits
        if not torch.allclose(trained, again, atol=1e-5):
            return f"other logits after loading, by {(trained - again).abs().max():g}"
        applied = applied_to(loaded)
        if applied.method.category == "all weights" or applied.method.quantization() or task_type == "classification":
            return WORKS  # the base is gone, or rounded, or its head is random at every load
        pristine = auto.from_pretrained(folder / "base").eval()(**batch).logits
        with applied.method.switched_off(loaded) as plain:
            return WORKS if torch.equal(plain(**batch).logits, pristine) else "not the base when switched off"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(hfplug.method_names()))
    parser.add_argument("--only", default=",".join(ARCHITECTURES), help="names of architectures, comma-separated")
    parser.add_argument("--json", type=Path, help="write a line for each pair to this file")
    words = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("hfplug").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    names, lines = words.only.split(","), []
    for method in words.methods.split(","):
        ends: Counter[str] = Counter()
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    said = try_one(name, method, Path(folder))
                    end = WORKS if said == WORKS else "WRONG"
                except hfplug.HfplugError as error:
                    end, said = "refused", str(error)
                except Exception as error:
                    end, said = "CRASHED", f"{type(error).__name__}: {error}"
            ends[end] += 1
            lines.append({"method": method, "architecture": name, "end": end, "said": said})
            if end != WORKS:
                print(f"  {method} on {name}: {end}: {' '.join(said.split())[:200]}", flush=True)
        print(f"{method}: " + ", ".join(f"{count} {end}" for end, count in ends.most_common()), flush=True)
        if words.json is not None:
            words.json.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
