"""A classification head that is a module of several layers is put back when the adapter beside it is merged."""

from __future__ import annotations

import pytest
import torch

import hfplug
from hfplug.testing.tiny_models import tiny_model


@pytest.mark.parametrize("method", ["ia3", "bitfit", "norms"])
def test_it_is_merged_with_its_head(method):
    model = hfplug.apply_method(tiny_model("electra", "classification"), method, task_type="classification")
    model.eval()
    with torch.no_grad():
        for parameter in (one for one in model.parameters() if one.requires_grad):
            parameter.add_(0.1)
        ids = torch.tensor([[5, 6, 7]])
        before = model(input_ids=ids).logits
        merged = model.merge_and_unload()
        assert torch.allclose(merged(input_ids=ids).logits, before, atol=1e-5)
    assert not any("modules_to_save" in name and method == "ia3" for name, _ in merged.named_modules())
