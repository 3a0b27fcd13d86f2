"""The microscope: what it says of an adapter is what the dense matrices say."""

from __future__ import annotations

import json

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import hfplug
from hfplug.adapters import inspect_base
from hfplug.adapters.inspect import inspect_adapter
from hfplug.adapters.inspect_table import WIDTH, render_inspection
from hfplug.cli.main import main
from hfplug.errors import AdapterError, BaseModelError, MismatchError, SettingError, UnsafeFileError
from hfplug.testing.tiny_models import tiny_model

SHAPES = {"t5": "seq2seq", "bart": "seq2seq", "llama": "causal", "gpt2": "causal", "bert": "classification"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folder of a tiny base of each shape, with a tokenizer beside it."""
    words = {f"w{number}": number for number in range(200)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0")
    found = {}
    for kind, task in {**SHAPES, "mixtral": "causal"}.items():
        found[kind] = tmp_path_factory.mktemp(kind)
        tiny_model(kind, task).save_pretrained(found[kind])
        tokenizer.save_pretrained(found[kind])
    return found


def shaken(model, size=0.05, seed=0):
    """The model with noise added to what it trains, as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


def saved(model, folder):
    model.save_pretrained(folder)
    return folder


def dense(model):
    """Module to (change, weight) of every LoRA layer, as PEFT computes them."""
    return {
        name.removeprefix("base_model.model."): (module.get_delta_weight("default"), module.get_base_layer().weight)
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


@pytest.mark.parametrize("kind", SHAPES)
def test_a_lora_on_every_shape_is_measured_as_its_dense_matrices_are(kind, bases, tmp_path, monkeypatch):
    monkeypatch.setattr(inspect_base, "load_base", lambda *args, **kwargs: pytest.fail("the base was loaded"))
    model = shaken(hfplug.apply_method(tiny_model(kind, SHAPES[kind]), "lora", r=4))
    seen = inspect_adapter(saved(model, tmp_path), base=bases[kind])
    expected = dense(model)
    assert {one.name for one in seen.layers} == set(expected) and seen.read == "files"
    for one in seen.layers:
        change, weight = (matrix.detach().double() for matrix in expected[one.name])
        values = torch.linalg.svdvals(change)[:4]
        assert one.singular_values == pytest.approx(values.tolist(), rel=1e-4, abs=1e-6)
        assert one.update_norm == pytest.approx(float(change.norm()), rel=1e-4)
        assert one.weight_norm == pytest.approx(float(weight.norm()), rel=1e-5)
        assert one.relative == pytest.approx(float(change.norm() / weight.norm()), rel=1e-4)
        assert 1 <= one.effective_rank <= 4 and one.used_rank == 4


def test_patterns_of_rank_and_alpha_embeddings_and_rank_stabilisation_are_taken_from_peft(bases, tmp_path):
    config = LoraConfig(
        target_modules=["wte", "c_attn", "c_proj"],
        r=3,
        lora_alpha=5,
        use_rslora=True,
        rank_pattern={"h.1.attn.c_attn": 2},
        alpha_pattern={"c_proj": 11},
    )
    model = get_peft_model(tiny_model("gpt2", "causal"), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    seen = {one.name: one for one in inspect_adapter(saved(model, tmp_path), base=bases["gpt2"]).layers}
    expected = dense(model)
    assert set(seen) == set(expected) and seen["transformer.h.1.attn.c_attn"].rank == 2
    for name, (change, weight) in expected.items():
        assert seen[name].update_norm == pytest.approx(float(change.detach().norm()), rel=1e-4), name
        assert seen[name].weight_norm == pytest.approx(float(weight.norm()), rel=1e-5), name


@pytest.mark.parametrize("kind", ("llama", "gpt2"))
def test_doras_change_is_the_difference_that_merging_makes(kind, bases, tmp_path):
    model = shaken(hfplug.apply_method(tiny_model(kind, "causal"), "dora"))
    seen = inspect_adapter(saved(model, tmp_path), base=bases[kind])
    merged, before = model.merge_and_unload().state_dict(), tiny_model(kind, "causal").state_dict()
    for one in seen.layers:
        change = (merged[f"{one.name}.weight"] - before[f"{one.name}.weight"]).norm()
        assert one.change_norm == pytest.approx(float(change), rel=1e-3)
        assert one.relative == pytest.approx(one.change_norm / one.weight_norm)


def test_adalora_and_every_expert_of_a_stack_are_measured(bases, tmp_path):
    model = get_peft_model(
        tiny_model("llama", "causal"), AdaLoraConfig(target_modules=["q_proj"], total_step=10, init_r=4)
    )
    shaken(model)
    seen = inspect_adapter(saved(model, tmp_path / "ada"), base=bases["llama"]).layers
    expected = dense(model)
    assert [one.update_norm for one in seen] == pytest.approx(
        [float(expected[one.name][0].detach().norm()) for one in seen], rel=1e-3
    )
    stacks = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    model = shaken(
        get_peft_model(tiny_model("mixtral", "causal"), LoraConfig(target_modules=[], target_parameters=stacks, r=2))
    )
    seen = inspect_adapter(saved(model, tmp_path / "experts"), base=bases["mixtral"])
    assert seen.read == "model"  # its file has a tensor for each expert
    by_name = {one.name: one for one in seen.layers}
    assert len(by_name) == 2 * 2 * 4
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            place = name.removeprefix("base_model.model.").replace(".base_layer", "")
            changes, weights = module.get_delta_weight("default"), module.get_param()
            for expert in range(4):
                one = by_name[f"{place}.{module.parameter_name}[{expert}]"]
                assert one.update_norm == pytest.approx(float(changes[expert].norm()), rel=1e-4)
                assert one.weight_norm == pytest.approx(float(weights[expert].norm()), rel=1e-5)
    alone = inspect_adapter(tmp_path / "experts", against="nothing")
    assert sorted(one.update_norm for one in alone.layers) == pytest.approx(
        sorted(one.update_norm for one in seen.layers)
    )


def test_rank_that_is_not_used_and_layers_that_did_not_move_are_named(bases, tmp_path):
    model = shaken(hfplug.apply_method(tiny_model("llama", "causal"), "lora", r=8))
    still, thin = "model.layers.0.self_attn.k_proj", "model.layers.1.self_attn.v_proj"
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if still in name and "lora_B" in name:
                parameter.zero_()
            if thin in name and "lora_B" in name:
                parameter[:, 2:] = 0
    seen = inspect_adapter(saved(model, tmp_path), base=bases["llama"])
    by_name = {one.name: one for one in seen.layers}
    assert (by_name[thin].used_rank, by_name[thin].unused_rank) == (2, 6) and by_name[thin].effective_rank < 2.01
    assert (by_name[still].used_rank, by_name[still].effective_rank, by_name[still].relative) == (0, 0, 0)
    assert seen.barely_moved() == [still]
    text = render_inspection(seen)
    assert f"Barely moved, less than a tenth of the median of their kind: {still}." in text
    assert max(map(len, text.splitlines()[2:])) <= WIDTH


def test_scales_biases_copies_rows_and_heads_are_held_against_where_they_started(bases, tmp_path):
    found = {}
    for kind, method, settings in (
        ("llama", "ia3", {}),
        ("bart", "bitfit", {}),
        ("llama", "norms", {}),
        ("llama", "embeddings", {"tokens": ("7", "11", "150")}),
        ("bert", "lora", {}),
        ("bert", "prompt_tuning", {"prompt_init": "random"}),
    ):
        model = hfplug.apply_method(tiny_model(kind, SHAPES[kind]), method, **settings)
        before = {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}
        shaken(model)
        noise = {name: one.detach() - before[name] for name, one in model.named_parameters() if name in before}
        seen = inspect_adapter(saved(model, tmp_path / f"{kind}-{method}"), base=bases[kind])
        found[kind, method] = seen
        for one in seen.changes:
            module = one.name.rpartition(".")[0] if one.role != "scale" else one.name
            own = [value for name, value in noise.items() if module in name and value.numel() == _size(one.shape)]
            assert any(one.change_norm == pytest.approx(float(value.norm()), rel=1e-3) for value in own), one.name
    assert {one.role for one in found["llama", "ia3"].changes} == {"scale"}
    assert {one.role for one in found["bart", "bitfit"].changes} == {"bias"}
    assert [one.name for one in found["bert", "lora"].changes] == ["classifier.weight", "classifier.bias"]
    assert {one.name for one in found["bert", "prompt_tuning"].changes} == {"classifier.weight", "classifier.bias"}
    (rows,) = found["llama", "embeddings"].changes
    assert {token for token, _ in rows.most_moved} == {7, 11, 150} and rows.role == "rows"
    assert "Tokens of model.embed_tokens.weight that moved most" in render_inspection(found["llama", "embeddings"])


def _size(shape):
    return int(torch.tensor(shape).prod())


def test_a_bottleneck_is_the_product_of_its_matrices_and_a_full_model_is_compared_tensor_by_tensor(bases, tmp_path):
    model = shaken(hfplug.apply_method(tiny_model("t5", "seq2seq"), "bottleneck", scale=4.0))
    state = load_file(saved(model, tmp_path / "bottleneck") / "adapter_model.safetensors")
    seen = inspect_adapter(tmp_path / "bottleneck", base=bases["t5"])
    assert len(seen.layers) == 4 and {one.kind for one in seen.layers} == {"network"}
    for one in seen.layers:
        half = f"base_model.model.{one.name}.bottleneck_"
        product = 4 * state[f"{half}up.weight"] @ state[f"{half}down.weight"]
        assert one.update_norm == pytest.approx(float(product.norm()), rel=1e-4)
        assert one.relative == pytest.approx(float(product.norm()) / 32**0.5, rel=1e-4)
    full = tiny_model("t5", "seq2seq")
    with torch.no_grad():
        full.encoder.block[1].layer[0].SelfAttention.q.weight *= 1.5
    seen = inspect_adapter(saved(full, tmp_path / "full"), base=bases["t5"])
    moved = {one.name: one.relative for one in seen.changes if one.change_norm}
    assert moved == {"encoder.block.1.layer.0.SelfAttention.q.weight": pytest.approx(0.5)}
    assert len(seen.changes) > 40 and seen.method == "full"


def prompt_of(folder, rows, **settings):
    """An adapter of prompt tuning with these vectors."""
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=len(rows), **settings)
    model = get_peft_model(tiny_model("llama", "causal"), config)
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(rows)
    return saved(model, folder)


def test_a_prompt_that_started_from_a_text_is_measured_from_there(bases, tmp_path):
    words = tiny_model("llama", "causal").get_input_embeddings().weight.detach()
    rows = words[[3, 9, 3, 9, 5]].clone()  # the text below, repeated; the last row is elsewhere
    rows[1] *= 2
    settings = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "w3 w9"}
    folder = prompt_of(tmp_path / "a", rows, tokenizer_name_or_path=str(bases["llama"]), **settings)
    view = inspect_adapter(folder, base=bases["llama"], nearest=3).prompt
    assert [one.started_at for one in view.rows] == ["w3", "w9", "w3", "w9", "w3"]
    assert [one.drift for one in view.rows[:4]] == pytest.approx([0, 1, 0, 0], abs=1e-6)
    assert view.rows[4].drift == pytest.approx(float((words[5] - words[3]).norm() / words[3].norm()), rel=1e-4)
    assert [one.state for one in view.rows] == ["not moved", "used", "not moved", "not moved", "used"]
    assert [one.duplicate_of for one in view.rows] == [None, None, 0, 1, None]
    assert [token.neighbours[0].text for token in view.near.tokens] == ["w3", "w9", "w3", "w9", "w5"]
    assert -1 < view.near.tokens[0].tightness < 1 and -1 < view.near.control_tightness < 1
    text = render_inspection(inspect_adapter(folder, base=bases["llama"]))
    assert (
        "Started from: the text 'w3 w9'" in text
        and "copy of 1" in text
        and max(map(len, text.splitlines()[2:])) <= WIDTH
    )


def test_dead_rows_and_the_least_way_from_a_vocabulary_are_seen_and_what_is_unknown_is_said(bases, tmp_path):
    words = tiny_model("llama", "causal").get_input_embeddings().weight.detach()
    rows = words[[3, 9, 5]].clone()
    rows[0] = 0
    rows[1] *= 1.25
    folder = prompt_of(tmp_path / "a", rows, prompt_tuning_init="SAMPLE_VOCAB")
    view = inspect_adapter(folder, base=bases["llama"]).prompt
    assert [one.state for one in view.rows] == ["dead", "used", "used"]
    assert view.rows[1].nearest_distance == pytest.approx(0.25, rel=1e-3) and view.rows[1].drift is None
    assert view.rows[2].nearest_distance == pytest.approx(0, abs=1e-5)
    assert view.start == "vocabulary" and "not written down" in view.notes[0]
    alone = inspect_adapter(folder, against="nothing")
    assert alone.prompt.near is None and alone.prompt.rows[0].state == "dead"


def test_rows_that_an_encoder_decoder_never_reads_are_named(bases, tmp_path):
    config = PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3)  # PEFT makes 6 rows of it
    model = get_peft_model(tiny_model("t5", "seq2seq"), config)
    view = inspect_adapter(saved(model, tmp_path), base=bases["t5"]).prompt
    assert [one.state for one in view.rows] == ["used"] * 3 + ["not read"] * 3
    assert any("reads the first 3 of 6 rows" in note for note in view.notes)


@pytest.mark.parametrize("kind", ("t5", "bart", "llama", "gpt2"))
def test_a_prefix_is_laid_out_by_the_layers_that_read_it(kind, bases, tmp_path):
    model = shaken(hfplug.apply_method(tiny_model(kind, SHAPES[kind]), "prefix_tuning", num_virtual_tokens=3))
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight[1] = 0
    seen = inspect_adapter(saved(model, tmp_path), base=bases[kind])
    by_layer = {layer: one for one in seen.prefix for layer in one.layers}
    cached = hfplug.get_method("prefix_tuning")().cached_prefix(model)
    layers = 2
    assert sorted(by_layer) == list(range(layers))
    for layer in range(layers):
        keys, values = cached[layer]  # of shape (heads, virtual tokens, head size)
        assert by_layer[layer].key_norm == pytest.approx(float(keys.norm(dim=(0, 2)).mean()), rel=1e-4)
        assert by_layer[layer].value_norms == pytest.approx(values.norm(dim=(0, 2)).tolist(), rel=1e-4)
        assert by_layer[layer].dead == (1,)
    assert "read by layers" in render_inspection(seen)


def test_plain_pefts_prefix_for_an_encoder_decoder_leaves_a_layer_with_anothers_pair(bases, tmp_path):
    config = PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3, num_layers=2, num_attention_heads=4)
    model = get_peft_model(tiny_model("t5", "seq2seq"), config)
    seen = inspect_adapter(saved(model, tmp_path), base=bases["t5"])
    assert [one.layers for one in seen.prefix] == [(0, 1), ()]


def test_an_initialisation_that_takes_its_start_from_the_base_is_pointed_out(bases, tmp_path):
    config = LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights="olora")
    model = get_peft_model(tiny_model("llama", "causal"), config)
    seen = inspect_adapter(saved(model, tmp_path), base=bases["llama"])
    assert any("moves a part of the base's weights into A and B" in note for note in seen.notes)


def test_another_base_is_refused_by_shape_by_name_and_by_the_lock(bases, tmp_path):
    folder = saved(shaken(hfplug.apply_method(tiny_model("llama", "causal"), "lora", r=2)), tmp_path / "lora")
    with pytest.raises(MismatchError, match="it has no model.layers"):
        inspect_adapter(folder, base=bases["gpt2"])
    wide = tiny_model("llama", "causal").config
    wide.hidden_size, wide.head_dim = 64, 16
    type(tiny_model("llama", "causal"))(wide).save_pretrained(tmp_path / "wide")
    with pytest.raises(MismatchError, match="has the shape"):
        inspect_adapter(folder, base=tmp_path / "wide")
    norms = saved(hfplug.apply_method(tiny_model("llama", "causal"), "norms"), tmp_path / "norms")
    with pytest.raises(MismatchError, match="was not made for"):
        inspect_adapter(norms, base=bases["t5"])
    model = hfplug.apply_method(tiny_model("llama", "causal"), "lora", r=2)
    lock = hfplug.adapters.lock.make_lock(model, base_name=str(bases["llama"]))
    locked = hfplug.AdapterDir.write(tmp_path / "locked", source=folder, lock=lock).path
    assert inspect_adapter(locked).base == str(bases["llama"])
    tiny_model("llama", "causal", seed=1).save_pretrained(tmp_path / "other")
    with pytest.raises(MismatchError, match=r"is not the base that this adapter was trained on: .* sampled tensors"):
        inspect_adapter(locked, base=tmp_path / "other")
    assert inspect_adapter(locked, against="nothing").layers[0].weight_norm is None


def test_what_is_no_adapter_or_damaged_is_refused_with_what_to_do(bases, tmp_path):
    folder = saved(shaken(hfplug.apply_method(tiny_model("llama", "causal"), "lora", r=2)), tmp_path / "lora")
    file = folder / "adapter_model.safetensors"
    whole = load_file(file)
    with pytest.raises(AdapterError, match="holds no adapter"):
        inspect_adapter(tmp_path)
    with pytest.raises(AdapterError, match="does not say which base"):
        inspect_adapter(folder)
    with pytest.raises(BaseModelError, match="there is no such folder"):
        inspect_adapter(folder, base=tmp_path / "nowhere")
    with pytest.raises(SettingError, match="against must be one of base, nothing"):
        inspect_adapter(folder, against="everything")
    save_file({**whole, next(iter(whole)): torch.full((2, 32), torch.nan)}, file)
    with pytest.raises(AdapterError, match="are NaN or infinite"):
        inspect_adapter(folder, base=bases["llama"])
    save_file({"base_model.model.x.lora_A.weight": torch.ones(2, 3)}, file)
    with pytest.raises(AdapterError, match="Nothing in .* is of a kind that can be looked at"):
        inspect_adapter(folder, base=bases["llama"])
    file.write_bytes(b"\0" * 100)
    with pytest.raises(AdapterError, match="is not a whole safetensors file"):
        inspect_adapter(folder, base=bases["llama"])
    file.unlink()
    (folder / "adapter_model.bin").write_bytes(b"\x80")
    with pytest.raises(UnsafeFileError, match="a pickle"):
        inspect_adapter(folder, base=bases["llama"])


def test_a_base_that_is_stored_in_four_bits_is_written_out_and_one_without_weights_is_refused(bases, tmp_path):
    pytest.importorskip("bitsandbytes")
    folder = saved(shaken(hfplug.apply_method(tiny_model("llama", "causal"), "lora", r=2)), tmp_path / "lora")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    recipe = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    quantised = AutoModelForCausalLM.from_pretrained(bases["llama"], quantization_config=recipe)
    quantised.save_pretrained(tmp_path / "quantised")
    whole, coarse = (inspect_adapter(folder, base=base) for base in (bases["llama"], tmp_path / "quantised"))
    assert coarse.read == "model"
    for one, other in zip(whole.layers, coarse.layers, strict=True):
        assert other.update_norm == one.update_norm and other.weight_norm == pytest.approx(one.weight_norm, rel=0.1)
        assert other.weight_norm != one.weight_norm
    (tmp_path / "quantised" / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="cannot be read as safetensors"):
        inspect_adapter(folder, base=tmp_path / "quantised")


def test_the_command_prints_a_table_or_json_and_says_on_one_line_what_is_wrong(bases, tmp_path, capsys):
    folder = str(saved(shaken(hfplug.apply_method(tiny_model("t5", "seq2seq"), "lora", r=4)), tmp_path / "lora"))
    assert main(["inspect", folder, "--base", str(bases["t5"]), "--top", "3"]) == 0
    text = capsys.readouterr().out
    assert "The 3 of 24 layers that moved most" in text and max(map(len, text.splitlines()[2:])) <= WIDTH
    assert main(["inspect", folder, "--base", str(bases["t5"]), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["inspection_version"] == 1 and len(shown["layers"]) == 24
    assert len(shown["layers"][0]["singular_values"]) == 4 and shown["layers"][0]["unused_rank"] == 0
    assert [one["name"] for one in shown["layers"]][0] == "encoder.block.0.layer.0.SelfAttention.q"  # model's order
    assert main(["inspect", folder, "--base", str(bases["gpt2"])]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["inspect", folder, "--top", "0"]) == 2
