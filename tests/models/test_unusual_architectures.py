"""Models whose layers are used in a way of their own: what is trained there learns, and the base stays whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import hfplug
from hfplug.methods.method import modules_to_save
from hfplug.models.anatomy import read_anatomy
from hfplug.models.quantize import layers_to_keep
from hfplug.models.trace import trace
from hfplug.testing import architectures
from hfplug.testing.architectures import batch_of, check_method, save_base
from hfplug.testing.tiny_models import tiny_config, tiny_model


def test_reversible_layers_give_every_trained_tensor_a_gradient():
    model = hfplug.apply_method(tiny_model("reformer", "causal"), "norms").train()
    model(**batch_of(model.get_base_model(), "causal")).loss.backward()
    assert [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None] == []
    assert not any(one.grad is not None for one in model.parameters() if not one.requires_grad)


@pytest.mark.parametrize(
    ("model_type", "kept"),
    [
        # divided by powers of two in eval mode
        pytest.param("rwkv", {"output", "value"}, marks=pytest.mark.slow),
        # clipped in training mode
        pytest.param("gemma3n_text", {"correction_coefs", "prediction_coefs"}, marks=pytest.mark.slow),
        ("longcat_flash", {"classifier"}),  # the routers multiply with it in float32, and on meta the run stops there
    ],
)
def test_what_a_model_reads_or_writes_itself_is_not_held_in_four_bits(model_type, kept):
    model = tiny_model(model_type, "causal")
    before = {name: one.clone() for name, one in model.named_parameters()}
    names = layers_to_keep(model)
    assert kept <= {name.rpartition(".")[2] for name in names}
    blocks = {name.split(".")[2] for name in names if name.rpartition(".")[2] in kept}
    assert blocks >= {"0", "1"}
    assert all(torch.equal(one, before[name]) for name, one in model.named_parameters())


def test_a_layer_whose_output_is_a_view_of_a_function_may_be_written_into():
    class View(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view(x.shape)

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    model = tiny_model("longformer", "classification")
    for layer in model.longformer.encoder.layer:
        query = layer.attention.self.query
        query.forward = lambda x, one=query: View.apply(nn.Linear.forward(one, x))
    assert trace(model).ended == "whole"


@pytest.mark.slow
def test_a_head_that_is_named_like_the_end_of_another_module_is_trained_alone():
    with torch.device("meta"):
        model = tiny_model("modernvbert", "classification")
    assert any(name.endswith("vision_model.head") for name, _ in model.named_modules())
    assert modules_to_save(read_anatomy(model, "SEQ_CLS")) == ["base_model.model.head"]
    tuned = hfplug.apply_method(model, "norms")
    trained = {name for name, one in tuned.named_parameters() if one.requires_grad}
    assert any(name.startswith("base_model.model.head.") for name in trained)
    assert not any("vision_model" in name for name in trained)


@pytest.mark.parametrize(("model_type", "ending"), [("gpt_oss", "router"), ("squeezebert", "conv1d")])
def test_training_the_difference_is_training_the_bias_also_where_it_is_not_added_last(model_type, ending):
    plain = tiny_model(model_type, "classification").eval()
    tuned = hfplug.apply_method(tiny_model(model_type, "classification"), "bitfit").eval()
    batch = batch_of(plain, "classification")
    for one in (plain, tuned):
        one(**batch).loss.backward()
    found = dict(tuned.named_parameters())
    compared = [name for name in found if name.endswith("bitfit_bias.default")]
    assert any(f"{ending}.bitfit_bias" in name for name in compared)
    for name in compared:
        own = plain.get_parameter(name.removeprefix("base_model.model.").replace("bitfit_bias.default", "bias"))
        assert torch.allclose(found[name].grad, own.grad, atol=1e-6), name


def test_the_sweep_tells_a_unit_that_is_off_from_a_tensor_that_nothing_reaches():
    starts = iter((1.0, -1.0))

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.sometimes = nn.Parameter(torch.tensor(next(starts)))
            self.never = nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            return type("Output", (), {"loss": (torch.relu(self.sometimes * x) + 0 * self.never).sum()})

    batch = {"x": -torch.ones(2)}
    dead = architectures._train(Tiny(), batch, architectures.Findings(), whole=False)
    assert dead == ["sometimes", "never"]
    again = iter([Tiny()])
    assert architectures._dead_again(dead, lambda: next(again, None) or Fixed(), batch) == ["never"]


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.never = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        return type("Output", (), {"loss": (0 * self.never * x).sum()})


def test_lora_goes_on_the_convolutions_of_a_model_that_has_them_for_linear_layers():
    model = hfplug.apply_method(tiny_model("squeezebert", "classification"), "lora").train()
    adapted = {name.split(".lora_A")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert adapted == {"query", "key", "value", "conv1d"}
    model(**batch_of(model.get_base_model(), "classification")).loss.backward()
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)


@pytest.mark.parametrize(
    ("model_type", "method", "kind"),
    [("ibert", "lora", "QuantLinear"), ("ibert", "ia3", "QuantLinear"), ("squeezebert", "ia3", "Conv1d")],
)
def test_a_method_of_linear_layers_says_what_stands_in_their_place(model_type, method, kind):
    with pytest.raises(hfplug.MethodError, match=f"goes on linear layers, and the blocks .* have none: {kind} stands"):
        hfplug.apply_method(tiny_model(model_type, "classification"), method)


@pytest.mark.parametrize(("model_type", "width_at"), [("squeezebert", 1), ("ibert", -1)])
def test_a_bottleneck_stands_after_whatever_ends_the_feed_forward_part(model_type, width_at):
    model = hfplug.apply_method(tiny_model(model_type, "classification"), "bottleneck").train()
    layers = [module for module in model.modules() if hasattr(module, "bottleneck_up")]
    assert len(layers) == 2
    with torch.no_grad():
        layers[0].bottleneck_up["default"].bias.copy_(torch.arange(32.0))
    shape = [2, 5]
    shape.insert(width_at % 3, 64)
    x = torch.ones(shape)
    given, own = layers[0](x), layers[0].get_base_layer()(x)
    given, own = (one[0] if isinstance(one, tuple) else one for one in (given, own))
    added = (given - own).movedim(width_at, -1)
    assert torch.allclose(added, torch.arange(32.0).expand(2, 5, 32), atol=1e-5)


def test_the_norms_and_biases_of_layers_that_give_a_scale_beside_are_found():
    found = read_anatomy(tiny_model("ibert", "classification"), "SEQ_CLS")
    assert {name.rpartition(".")[2] for name in found.norms} == {"LayerNorm"}
    assert {"query", "dense", "LayerNorm"} <= {name.rpartition(".")[2] for name in found.biases}


def test_lora_leaves_out_layers_whose_tensors_peft_renames_out_of_reach():
    """The rule goes once PEFT finds these tensors again: then this key stays as it is."""
    from peft.utils import transformers_weight_conversion as conversion
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    key = "model.layers.1.self_attn.k_sconv.weight_proj.lora_A.weight"
    entries = get_checkpoint_conversion_mapping("inkling2_text")
    renames = [one for one in entries if isinstance(one, conversion.WeightRenaming)]
    assert conversion.rename_source_key(key, renames, [])[0] != key
    model = hfplug.apply_method(tiny_model("inkling2_text", "causal"), "lora")
    targets = model.active_peft_config.target_modules
    assert "q_proj" in targets and not any(name.endswith("weight_proj") for name in targets)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "task", "method"),
    [
        *(("reformer", "causal", method) for method in ("lora", "qlora", "ia3", "bottleneck", "bitfit")),
        *((one, "causal", "qlora") for one in ("rwkv", "gemma3n_text", "longcat_flash")),
        ("layoutlmv3", "classification", "qlora"),
        ("led", "seq2seq", "qlora"),
        ("longformer", "classification", "qlora"),
        *(("modernvbert", "classification", method) for method in ("lora", "prompt_tuning", "p_tuning")),
        ("gpt_oss", "causal", "bitfit"),
        *(("squeezebert", "classification", method) for method in ("bitfit", "lora", "bottleneck")),
        *(("ibert", "classification", method) for method in ("bitfit", "norms", "bottleneck")),
        ("inkling2_text", "causal", "lora"),
        ("gemma3n_text", "causal", "norms"),
        ("t5gemma2", "classification", "embeddings"),
    ],
)
def test_it_works_from_the_first_step_to_the_loaded_adapter(model_type, task, method, tmp_path):
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    save_base(model_type, task, tmp_path / "base")
    found = check_method(tmp_path / "base", task, method, tmp_path)
    assert found.wrong == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "settings", "share"),
    [
        ("recurrent_gemma", {}, "67%"),
        ("hrm_text", {}, "38%"),
        ("hrm_text", {"prefix_projection": "on", "prefix_hidden_size": 8}, "38%"),
    ],
)
def test_a_prefix_of_which_much_learns_nothing_is_refused(model_type, settings, share):
    with pytest.raises(hfplug.MethodError, match=f"{share} of the numbers of its prefix get no gradient.*Use lora"):
        hfplug.apply_method(tiny_model(model_type, "causal"), "prefix_tuning", **settings)


def test_a_tiny_reformer_needs_its_seed():
    """The exception in the tiny configuration goes once two calls without it give the same."""
    config = tiny_config("reformer", "causal")
    config.hash_seed = None
    torch.manual_seed(0)
    model = type(tiny_model("reformer", "causal"))(config).eval()
    ids = torch.arange(3, 19)[None]
    with torch.no_grad():
        answers = [model(input_ids=ids).logits for _ in range(4)]
    assert not all(torch.equal(answers[0], one) for one in answers)
