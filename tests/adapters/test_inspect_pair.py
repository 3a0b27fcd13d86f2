"""Two adapters side by side: cosines and overlaps are those of the dense matrices."""

from __future__ import annotations

import json

import pytest
import torch

import hfplug
from hfplug.adapters.inspect_pair import inspect_pair
from hfplug.adapters.lock import make_lock
from hfplug.cli.main import main
from hfplug.errors import AdapterError, MismatchError
from hfplug.testing.tiny_models import tiny_model


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    found = {}
    for kind, task in (("llama", "causal"), ("gpt2", "causal"), ("t5", "seq2seq")):
        found[kind] = tmp_path_factory.mktemp(kind)
        tiny_model(kind, task).save_pretrained(found[kind])
    return found


@pytest.fixture
def make(bases, tmp_path):
    """``make(name, method, kind, seed)``: an adapter whose trained numbers are drawn from the seed, and its model."""

    def _make(name, method="lora", kind="llama", *, seed=0, lock="off", **settings):
        torch.manual_seed(seed)  # A starts at random
        base = tiny_model(kind, "seq2seq" if kind == "t5" else "causal")
        model = base if method == "full" else hfplug.apply_method(base, method, **settings)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(tmp_path / name)
        if lock == "on":
            made = make_lock(model, base_name=str(bases[kind]))
            hfplug.AdapterDir.write(tmp_path / f"{name}-locked", source=tmp_path / name, lock=made)
            return tmp_path / f"{name}-locked", model
        return tmp_path / name, model

    return _make


def deltas(model):
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach().double()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def test_cosine_and_overlap_are_those_of_the_dense_matrices(make, bases):
    (one, first), (other, second) = make("one", r=3), make("other", r=5, seed=1)
    pair = inspect_pair(one, other, base=bases["llama"])
    mine, theirs = deltas(first), deltas(second)
    assert {layer.name for layer in pair.layers} == set(mine) and pair.only == ((), ())
    for layer in pair.layers:
        a, b = mine[layer.name], theirs[layer.name]
        assert layer.cosine == pytest.approx(float((a * b).sum() / (a.norm() * b.norm())), abs=1e-4)
        u1, u2 = torch.linalg.svd(a).U[:, :3], torch.linalg.svd(b).U[:, :5]
        assert layer.overlap_out == pytest.approx(float((u1.T @ u2).square().sum() / 3), rel=1e-3)
        v1, v2 = torch.linalg.svd(a).Vh[:3], torch.linalg.svd(b).Vh[:5]
        assert layer.overlap_in == pytest.approx(float((v1 @ v2.T).square().sum() / 3), rel=1e-3)
        assert layer.ranks == (3, 5) and layer.chance_out == pytest.approx(5 / a.shape[0])
    # Drawn independently of each other: by and large what chance gives.
    assert pair.mean_of("overlap_out") == pytest.approx(pair.mean_of("chance_out"), rel=0.35)
    assert abs(pair.mean_of("cosine")) < 0.1


def test_an_adapter_and_itself_are_alike_in_everything(make, bases):
    (one, _), (again, _) = make("one", r=3), make("again", r=3)
    for layer in inspect_pair(one, again, base=bases["llama"]).layers:
        assert layer.cosine == pytest.approx(1) and layer.overlap_in == pytest.approx(1)
    (one, _), (again, _) = make("ia", "ia3"), make("ib", "ia3")
    assert [tensor.cosine for tensor in inspect_pair(one, again, base=bases["llama"]).tensors] == pytest.approx([1] * 6)
    prompts = [make(f"p{seed}", "prompt_tuning", seed=seed, prompt_init="random")[0] for seed in (0, 1)]
    same = inspect_pair(prompts[0], prompts[0], base=bases["llama"]).prompt
    assert (same.same_place, same.best, same.overlap) == pytest.approx((1, 1, 1)) and same.chance < 0.7
    other = inspect_pair(*prompts, base=bases["llama"]).prompt
    assert other.same_place < 0.3 and other.best == pytest.approx(other.chance, abs=0.15)


@pytest.mark.parametrize("kind", ("llama", "gpt2"))
def test_a_lora_is_held_against_a_fully_tuned_model(kind, make, bases):
    (full, tuned), (lora, model) = make("full", "full", kind, seed=3), make("lora", "lora", kind, r=4)
    pair = inspect_pair(lora, full, base=bases[kind])
    before, after = tiny_model(kind, "causal").state_dict(), tuned.state_dict()
    expected = deltas(model)
    assert len(pair.tensors) == len(expected)
    for tensor in pair.tensors:
        whole = (after[tensor.name] - before[tensor.name]).double()
        update = expected[tensor.name.removesuffix(".weight")]
        cosine = float((whole * update).sum() / (whole.norm() * update.norm()))
        assert tensor.cosine == pytest.approx(cosine, abs=1e-4)
        assert tensor.norms == pytest.approx((float(update.norm()), float(whole.norm())), rel=1e-3)
    turned = inspect_pair(full, lora, base=bases[kind]).tensors
    assert [one.norms for one in turned] == [tuple(reversed(one.norms)) for one in pair.tensors]


def test_layers_of_one_only_are_named_and_nothing_in_common_is_refused(make, bases):
    (few, _), (many, _), (norms, _) = make("few", target_modules=("q_proj",)), make("many"), make("norms", "norms")
    pair = inspect_pair(few, many, base=bases["llama"])
    assert [layer.name for layer in pair.layers] == [f"model.layers.{at}.self_attn.q_proj" for at in (0, 1)]
    assert pair.only[0] == () and len(pair.only[1]) == 6
    with pytest.raises(AdapterError, match=r"change nothing that is the same: lora of .* against ln_tuning of"):
        inspect_pair(many, norms, base=bases["llama"])


def test_two_bases_are_refused_by_shape_by_lock_and_by_name(make, bases, tmp_path):
    (llama, _), (gpt2, _) = make("llama", lock="on"), make("gpt2", kind="gpt2", lock="on")
    with pytest.raises(MismatchError, match="are of different bases"):
        inspect_pair(llama, gpt2)
    plain, _ = make("plain")
    with pytest.raises(MismatchError, match="it has no model.layers"):
        inspect_pair(plain, make("other", kind="gpt2")[0], base=bases["gpt2"])
    settings = json.loads((plain / "adapter_config.json").read_text())
    (plain / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "some/other"}))
    with pytest.raises(MismatchError, match="different bases, 'some/other' and"):
        inspect_pair(plain, llama)


def test_the_command_takes_two(make, bases, capsys):
    (one, _), (other, _) = make("one", r=3), make("other", r=3, seed=1)
    words = ["inspect", str(one), str(other), "--base", str(bases["llama"])]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "used ranks" in text and "…" not in text and "writes alike" in text and "Mean of the layers: cosine" in text
    assert max(map(len, text.splitlines()[3:])) <= 100
    assert main([*words, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 8
    assert main([*words, "--against", "nothing"]) == 2 and "Leave one of them out" in capsys.readouterr().err
