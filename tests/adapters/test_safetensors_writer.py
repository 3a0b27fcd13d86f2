"""A file that is written a tensor at a time is the one that safetensors writes from all of them."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from hfplug.adapters.safetensors_header import read_header
from hfplug.adapters.safetensors_writer import Entry, TensorWriter


def entries(tensors: dict[str, torch.Tensor]) -> dict[str, Entry]:
    return {name: Entry.of(one.shape, one.dtype) for name, one in tensors.items()}


def test_it_reads_back_and_has_the_bytes_of_save_file(tmp_path):
    tensors = {
        "é/b": torch.randn(3, 5, dtype=torch.float32),
        "a": torch.randn(7, dtype=torch.bfloat16),
        "one": torch.tensor(2.5, dtype=torch.float64),
        "turned": torch.randn(4, 6).T,
    }
    with TensorWriter(tmp_path / "own.safetensors", entries(tensors)) as writer:
        for name in writer.names:
            writer.write(name, tensors[name])
    found = load_file(tmp_path / "own.safetensors")
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    save_file({n: one.contiguous() for n, one in tensors.items()}, tmp_path / "its.safetensors", {"format": "pt"})
    assert read_header(tmp_path / "own.safetensors") == read_header(tmp_path / "its.safetensors")
    assert writer.size == sum(one.numel() * one.element_size() for one in tensors.values())


@pytest.mark.parametrize(
    ("name", "tensor"), [("b", torch.zeros(2)), ("a", torch.zeros(3)), ("a", torch.zeros(2, dtype=torch.float64))]
)
def test_another_tensor_than_the_announced_one_is_refused(tmp_path, name, tensor):
    two = entries({"a": torch.zeros(2), "b": torch.zeros(2)})
    with pytest.raises(ValueError, match="a was announced"), TensorWriter(tmp_path / "x.safetensors", two) as writer:
        writer.write(name, tensor)


def test_a_tensor_that_is_never_written_is_noticed(tmp_path):
    two = entries({"a": torch.zeros(2), "b": torch.zeros(2)})
    with pytest.raises(ValueError, match="b was announced"), TensorWriter(tmp_path / "x.safetensors", two) as writer:
        writer.write("a", torch.zeros(2))
