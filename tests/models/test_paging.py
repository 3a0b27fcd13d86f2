"""A loaded model goes into four bits weight by weight: its unquantised copy never stands in memory as a whole."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hfplug.methods import get_method
from hfplug.models.paging import page_out, trim
from hfplug.models.quantize_loaded import quantize_loaded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and gives memory back by madvise")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Llama of 168 MB, nearly all of it in linear layers."""
    path = tmp_path_factory.mktemp("paging")
    config = LlamaConfig(
        vocab_size=64, hidden_size=1024, intermediate_size=2048, num_hidden_layers=4, num_attention_heads=8
    )
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for one in (*model.parameters(), *model.buffers()):
        one.data.uniform_(-0.05, 0.05, generator=generator)
    model.save_pretrained(path)
    return path


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(work):
    """Bytes that the process grew by at the most while ``work`` ran."""
    seen, done = [], threading.Event()

    def look():
        while not done.is_set():
            seen.append(resident())
            time.sleep(0.001)

    trim()
    before, watch = resident(), threading.Thread(target=look)
    watch.start()
    work()
    seen.append(resident())
    done.set()
    watch.join()
    return max(seen) - before


@pytest.mark.slow
def test_the_unquantised_copy_never_costs_its_memory(folder):
    recipe = get_method("qlora")().quantization()
    first = AutoModelForCausalLM.from_pretrained(folder)
    quantize_loaded(first, recipe)  # what bitsandbytes itself takes at its first use is not the model's
    whole = sum(one.nbytes for one in AutoModelForCausalLM.from_pretrained(folder).parameters())
    loaded = []

    def read():
        loaded.append(AutoModelForCausalLM.from_pretrained(folder))
        for one in loaded[0].parameters():
            one.detach().sum()

    def pack():
        loaded.append(AutoModelForCausalLM.from_pretrained(folder))
        quantize_loaded(loaded[1], recipe)

    unquantised = growth(read)
    loaded[0] = None  # whose pages would be handed back to nobody while it maps them too
    packed = growth(pack)
    assert unquantised > 0.8 * whole
    assert packed < 0.75 * unquantised, (packed, unquantised, whole)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(first(ids).logits, loaded[1](ids).logits)


def test_what_was_handed_back_reads_as_before(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    weight = model.model.layers[0].mlp.up_proj.weight
    own = torch.arange(100_000, dtype=torch.float32)
    before, before_own = weight.clone(), own.clone()
    page_out(weight)
    page_out(own)
    page_out(torch.ones(3))
    assert torch.equal(weight, before) and torch.equal(own, before_own)
