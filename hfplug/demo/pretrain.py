"""Pretrain the built-in base from nothing: ``python -m hfplug.demo.pretrain --out DIR``.

Denoising and small instruction tasks over the demo's world (``pretrain_tasks``), never summaries, titles or
action items. Everything is seeded and the number of steps is fixed, so that a second run makes the same
base up to the rounding of the machine. It says at the end how long it took and writes that into the model
card.

The matrices are trained with Muon (Jordan et al. 2024, as in ``torch.optim``), the rest with AdamW; the
forward pass runs in bfloat16 where the processor has units for it, the weights stay float32. The first
steps are short lines to repeat: copying is learnt there in a minute, on whole dialogues hardly at all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from hfplug.demo.model_card import model_card
from hfplug.demo.pretrain_tasks import Example, examples, short_examples
from hfplug.demo.vocabulary import SENTINELS, train_tokenizer

VOCABULARY = 2560
MAX_INPUT_TOKENS = 192
MAX_TARGET_TOKENS = 96
WINDOW = 64  # batches that are sorted by length together

Pair = tuple[list[int], list[int]]  # input ids, target ids, both with </s> at their end


def config() -> T5Config:
    """A T5 v1.1 of 4.2 million parameters: four encoder and two decoder layers, width 224, tied embeddings."""
    return T5Config(
        vocab_size=VOCABULARY,
        d_model=224,
        d_kv=32,
        num_heads=7,
        d_ff=512,
        num_layers=4,
        num_decoder_layers=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=True,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )


def corrupt(ids: list[int], sentinels: list[int], rng: random.Random) -> Pair:
    """Span corruption (Raffel et al. 2020, section 3.1.4): 15 % of the tokens, spans of 3 on average.

    Args:
        ids: Tokens without ``</s>``.
        sentinels: Ids of ``<extra_id_0>`` and so on.
        rng: Source of chance.
    """
    wanted = max(1, round(0.15 * len(ids)))
    source: list[int] = []
    target: list[int] = []
    at, spans = 0, max(1, round(wanted / 3))
    starts = sorted(rng.sample(range(len(ids)), min(spans, len(ids))))
    for number, start in enumerate(starts):
        if start < at:
            continue
        length = rng.choice((1, 2, 3, 4, 5))
        source += [*ids[at:start], sentinels[number % len(sentinels)]]
        target += [sentinels[number % len(sentinels)], *ids[start : start + length]]
        at = start + length
    return [*source, *ids[at:], 1], [*target, 1]


def encoded(tokenizer: PreTrainedTokenizerFast, stream: Iterator[Example], seed: int) -> Iterator[Pair]:
    """The examples as token ids, too long ones left out."""
    rng = random.Random(f"spans {seed}")
    sentinels = tokenizer.convert_tokens_to_ids(list(SENTINELS))
    for prompt, target in stream:
        ids = tokenizer(prompt).input_ids
        if not target:
            yield corrupt(ids[: MAX_INPUT_TOKENS - 1][:-1], sentinels, rng)
            continue
        labels = tokenizer(target).input_ids
        if len(ids) <= MAX_INPUT_TOKENS and len(labels) <= MAX_TARGET_TOKENS:
            yield ids, labels


def batches(pairs: Iterator[Pair], size: int, seed: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of similar length, in random order within a window of ``WINDOW`` batches."""
    rng = random.Random(f"order {seed}")
    while True:
        window = sorted(itertools.islice(pairs, size * WINDOW), key=lambda pair: (len(pair[0]), len(pair[1])))
        groups = [window[start : start + size] for start in range(0, len(window), size)]
        rng.shuffle(groups)
        for group in groups:
            yield collate(group)


def collate(group: list[Pair]) -> dict[str, torch.Tensor]:
    """Tensors (rows, longest) of a batch, lengths rounded up; label padding is -100.

    Rounding keeps the number of different shapes small: the kernels are compiled anew for each shape.
    """
    width = -(-max(len(ids) for ids, _ in group) // 16) * 16
    depth = -(-max(len(ids) for _, ids in group) // 8) * 8
    padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in group])
    return {
        "input_ids": padded,
        "attention_mask": (padded != 0).long(),
        "labels": torch.tensor([[*ids, *[-100] * (depth - len(ids))] for _, ids in group]),
    }


def optimizers(model: T5ForConditionalGeneration, peak: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest, every group with its ``share`` of the rate.

    Shares follow the size that T5 gives a parameter at the start (Adafactor's relative steps, which T5 was
    made for, do the same): large for embeddings and norms, small for queries, because T5 does not divide
    attention scores by the square root of the head's width but starts its queries smaller by as much.
    """
    groups: dict[str, list[torch.nn.Parameter]] = {"matrix": [], "query": [], "embedding": [], "bias": []}
    for name, parameter in model.named_parameters():
        if name.endswith("relative_attention_bias.weight"):
            groups["bias"].append(parameter)
        elif name.endswith(("shared.weight", "layer_norm.weight")):
            groups["embedding"].append(parameter)
        else:
            groups["query" if name.endswith(".q.weight") else "matrix"].append(parameter)
    matrices = [{"params": groups["matrix"], "share": 1.0}, {"params": groups["query"], "share": 0.18}]
    rest = [{"params": groups["embedding"], "share": 4.0}, {"params": groups["bias"], "share": 1.0}]
    return [
        torch.optim.Muon(matrices, lr=peak, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=peak, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def rate(step: int, steps: int, warmup: int = 50) -> float:
    """Share of the peak learning rate: up, flat for a third, then straight down to nothing."""
    if step < warmup:
        return (step + 1) / warmup
    return min(1.0, (steps - step) / max(1.0, 0.66 * steps))


@torch.no_grad()
def answers_right(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, rows: list[Pair]) -> float:
    """Share of targets that greedy decoding gives word for word."""
    model.eval()
    right = 0
    for start in range(0, len(rows), 32):
        group = rows[start : start + 32]
        batch = collate(group)
        made = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=64,
            do_sample=False,
        )
        texts = tokenizer.batch_decode(made, skip_special_tokens=True)
        wanted = tokenizer.batch_decode([ids for _, ids in group], skip_special_tokens=True)
        right += sum(text == want for text, want in zip(texts, wanted, strict=True))
    model.train()
    return right / max(1, len(rows))


def save(model: T5ForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, facts: dict, out: Path) -> None:
    """Write the base beside ``out`` and move it there, so that ``out`` is always whole."""
    fresh = out.with_name(out.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    model.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    for file in fresh.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone, and a wheel keeps the mode
    (fresh / "README.md").write_text(model_card(facts), encoding="utf-8")
    (fresh / "pretraining.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    os.replace(fresh, out)


def pretrain(
    out: Path, steps: int, batch: int, peak: float, seed: int, short_steps: int, save_every: int, note: str
) -> dict:
    """Make the tokenizer and the base, and write both to ``out``.

    Returns:
        What is known of the run: steps, seconds, losses, share of right answers, versions.
    """
    began = time.perf_counter()
    torch.manual_seed(seed)
    sample = itertools.islice(examples(seed + 1), 30_000)
    tokenizer = train_tokenizer((f"{prompt}\n{target}" for prompt, target in sample), VOCABULARY)
    model = T5ForConditionalGeneration(config())
    model.name_or_path = ""
    model.generation_config = GenerationConfig(
        max_new_tokens=64,
        do_sample=False,
        num_beams=1,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    unseen = [pair for pair in itertools.islice(encoded(tokenizer, examples(seed + 2), seed), 160)]
    short = batches(encoded(tokenizer, short_examples(seed + 3), seed), batch, seed)
    stream = batches(encoded(tokenizer, examples(seed), seed), batch, seed)
    train_with = optimizers(model, peak)
    model.train()
    facts: dict = {
        "parameters": model.num_parameters(),
        "steps": steps,
        "batch": batch,
        "peak_learning_rate": peak,
        "short_steps": short_steps,
        "seed": seed,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "note": note,
        "losses": [],
    }
    recent: list[float] = []
    for step in range(steps):
        for optimizer in train_with:
            for group in optimizer.param_groups:
                group["lr"] = peak * rate(step, steps) * group["share"]
        rows = next(short if step < short_steps else stream)
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            loss = model(**rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in train_with:
            optimizer.step()
            optimizer.zero_grad()
        recent.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            seconds = time.perf_counter() - began
            facts["losses"].append([step + 1, round(sum(recent) / len(recent), 4)])
            print(f"step {step + 1:>5}/{steps}  loss {facts['losses'][-1][1]:.3f}  {seconds:7.0f} s", flush=True)
            recent.clear()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            facts["right_answers"] = round(answers_right(model, tokenizer, unseen), 3)
            facts["steps_done"], facts["seconds"] = step + 1, round(time.perf_counter() - began)
            print(f"unseen targets given word for word: {facts['right_answers']:.1%}", flush=True)
            save(model, tokenizer, facts, out)
    print(f"pretraining took {facts['seconds'] / 60:.1f} minutes on {facts['threads']} threads; base in {out}")
    return facts


def main() -> None:
    """Read the flags and pretrain."""
    parser = argparse.ArgumentParser(prog="python -m hfplug.demo.pretrain", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write the base to")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="peak learning rate")
    parser.add_argument("--short-steps", type=int, default=350, help="steps of short lines before the rest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--note", default="", help="a remark on the run for the model card")
    flags = parser.parse_args()
    pretrain(
        flags.out,
        flags.steps,
        flags.batch,
        flags.learning_rate,
        flags.seed,
        flags.short_steps,
        flags.save_every,
        flags.note,
    )


if __name__ == "__main__":
    main()
