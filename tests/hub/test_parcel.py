"""What leaves this machine: the adapter's own files, and nothing that is nobody's business."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from made_adapters import make_llama, make_t5, make_tokenizer, save_lora, save_prompt
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.lock import Lock
from hfplug.adapters.record import Record
from hfplug.errors import AdapterError, UnsafeFileError
from hfplug.hub.parcel import FileSum, Parcel, _without_places, pack

TOKEN = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0iLxY"
COMMIT = "a" * 40


@pytest.fixture
def checkpoint(tmp_path):
    """What Trainer leaves: PEFT's files, pickles, and a card of nobody."""
    folder = tmp_path / "run" / "checkpoint-3"
    save_lora(folder, base=tmp_path / "bases" / "my-base")
    for name in ("optimizer.pt", "training_args.bin", "scheduler.pt", "rng_state.pth"):
        (folder / name).write_bytes(b"\x80" + TOKEN.encode())
    (folder / "trainer_state.json").write_text("{}")
    return folder


@pytest.fixture
def pack_it(tmp_path):
    """``pack_it(adapter, **options)``: a parcel in a new folder each time."""

    def make(adapter, repo_id="alice/x", **options):
        return pack(adapter, tmp_path / f"parcel-{len(list(tmp_path.glob('parcel-*')))}", repo_id=repo_id, **options)

    return make


def front(parcel):
    return ModelCard((parcel.folder / "README.md").read_text(), ignore_metadata_errors=False).data.to_dict()


def test_of_a_trainers_checkpoint_only_the_adapter_goes(checkpoint, pack_it):
    parcel = pack_it(checkpoint)
    assert set(parcel.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert any("training_args.bin" in note and "pickles" in note for note in parcel.notes)
    weights = load_file(parcel.folder / "adapter_model.safetensors")
    assert all(
        torch.equal(weights[name], value) for name, value in load_file(checkpoint / "adapter_model.safetensors").items()
    )


def test_the_same_adapter_gives_the_same_bytes(checkpoint, pack_it):
    assert pack_it(checkpoint).files == pack_it(checkpoint).files
    assert pack_it(checkpoint, dtype="bfloat16").files == pack_it(checkpoint, dtype="bfloat16").files


def test_a_module_list_in_another_order_is_the_same_adapter(checkpoint, pack_it):
    first = pack_it(checkpoint).files
    config = json.loads((checkpoint / "adapter_config.json").read_text())
    config["target_modules"] = config["target_modules"][::-1]
    (checkpoint / "adapter_config.json").write_text(json.dumps(config))
    assert pack_it(checkpoint).files == first


def test_a_base_in_a_folder_leaves_no_path_and_a_valid_card(checkpoint, pack_it, tmp_path):
    parcel = pack_it(checkpoint)
    assert "base_model" not in front(parcel) and front(parcel)["library_name"] == "peft"
    assert "my-base" in " ".join(parcel.notes) and "--base-id OWNER/NAME" in " ".join(parcel.notes)
    for name in parcel.files:
        assert str(tmp_path).encode() not in (parcel.folder / name).read_bytes(), name


def test_a_base_id_takes_the_place_of_the_folder(checkpoint, pack_it):
    parcel = pack_it(checkpoint, base_id="google/flan-t5-small")
    assert (front(parcel)["base_model"], front(parcel)["base_model_relation"]) == ("google/flan-t5-small", "adapter")
    assert PeftConfig.from_pretrained(str(parcel.folder)).base_model_name_or_path == "google/flan-t5-small"
    with pytest.raises(AdapterError, match="is no id of a model"):
        pack_it(checkpoint, base_id="/somewhere/else")


def test_plain_peft_is_told_the_commit_of_the_base(checkpoint, pack_it, tmp_path):
    lock = Lock(base="google/flan-t5-small", base_commit=COMMIT)
    record = Record(method="lora", task="summary", base="google/flan-t5-small", base_commit=COMMIT)
    adapter = AdapterDir.write(tmp_path / "adapter", source=checkpoint, lock=lock, record=record)
    config = PeftConfig.from_pretrained(str(pack_it(adapter).folder))
    assert (config.base_model_name_or_path, config.revision) == ("google/flan-t5-small", COMMIT)


@pytest.mark.parametrize("known", ["commit", "base_id"])
def test_a_folder_named_like_the_base_does_not_make_it_a_local_one(tmp_path, pack_it, monkeypatch, known):
    base = "google/flan-t5-small"
    save_lora(tmp_path / "source", base=base)
    lock = Lock(base=base, base_commit=COMMIT if known == "commit" else None)
    adapter = AdapterDir.write(
        tmp_path / "adapter", source=tmp_path / "source", lock=lock, record=Record(method="lora")
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / base).mkdir(parents=True)
    parcel = pack_it(adapter, base_id=base if known == "base_id" else None)
    assert front(parcel)["base_model"] == base
    card = (parcel.folder / "README.md").read_text()
    assert f"(https://huggingface.co/{base})" in card and f'from_pretrained("{base}"' in card
    assert PeftConfig.from_pretrained(str(parcel.folder)).base_model_name_or_path == base


def test_a_relative_folder_without_a_commit_is_a_local_base(tmp_path, pack_it, monkeypatch):
    save_lora(tmp_path / "adapter", base="models/mine")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert "base_model" not in front(pack_it(tmp_path / "adapter"))


def test_record_and_lock_name_no_place_of_this_machine(checkpoint, pack_it, tmp_path):
    base = str(tmp_path / "bases" / "my-base")
    record = Record(method="lora", base=base, data={"source": str(tmp_path / "talk.jsonl")}, notes=("By /hand.",))
    adapter = AdapterDir.write(tmp_path / "adapter", source=checkpoint, lock=Lock(base=base), record=record)
    parcel = pack_it(adapter, base_id="google/flan-t5-small")
    for name in parcel.files:
        assert str(tmp_path).encode() not in (parcel.folder / name).read_bytes(), name
    packed = AdapterDir.open(parcel.folder)
    assert packed.record.data == {"source": "talk.jsonl"} and packed.record.notes == ("By /hand.",)
    assert packed.lock.base == packed.record.base == "google/flan-t5-small"


def test_bfloat16_is_converted_and_said_in_the_card_and_the_record(checkpoint, pack_it, tmp_path):
    adapter = AdapterDir.write(tmp_path / "adapter", source=checkpoint, record=Record(method="lora"))
    parcel = pack_it(adapter, dtype="bfloat16")
    before, after = (load_file(f / "adapter_model.safetensors") for f in (adapter.path, parcel.folder))
    assert set(before) == set(after)
    assert all(torch.equal(after[name], before[name].to(torch.bfloat16)) for name in before)
    card = (parcel.folder / "README.md").read_text()
    assert "its weights in `bfloat16`" in card
    assert "> The weights are stored in bfloat16; they were trained in float32." in card
    assert AdapterDir.open(parcel.folder).record.parameter_efficiency["stored_dtype"] == "bfloat16"
    with pytest.raises(AdapterError, match="dtype must be one of float32, bfloat16"):
        pack_it(adapter, dtype="int8")


def test_whole_numbers_keep_their_format_when_weights_are_converted(checkpoint, pack_it):
    file = checkpoint / "adapter_model.safetensors"
    tensors = load_file(file) | {
        "a": torch.arange(3, dtype=torch.uint8),
        "z": torch.tensor(7),
    }
    save_file(tensors, file, metadata={"format": "pt"})
    after = load_file(pack_it(checkpoint, dtype="bfloat16").folder / "adapter_model.safetensors")
    assert torch.equal(after["a"], tensors["a"]) and torch.equal(after["z"], tensors["z"])


def test_a_converted_adapter_loads_in_plain_peft(checkpoint, pack_it):
    folder = pack_it(checkpoint, dtype="bfloat16").folder
    model = PeftModel.from_pretrained(make_t5(), str(folder))
    assert any(bool(parameter.any()) for name, parameter in model.named_parameters() if "lora_B" in name)


def test_a_tokenizer_that_is_the_bases_stays_here(tmp_path, pack_it):
    base = tmp_path / "base"
    make_t5().save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    save_lora(tmp_path / "adapter", base=base)
    make_tokenizer().save_pretrained(tmp_path / "adapter")
    assert "tokenizer.json" not in pack_it(tmp_path / "adapter").files
    make_tokenizer(("another", "one")).save_pretrained(tmp_path / "adapter")
    parcel = pack_it(tmp_path / "adapter")
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(parcel.files)
    assert not any("tokenizer" in note for note in parcel.notes)


def test_a_tokenizer_is_kept_when_the_bases_cannot_be_looked_at(tmp_path, pack_it):
    save_lora(tmp_path / "adapter", base="nobody/nowhere")
    make_tokenizer().save_pretrained(tmp_path / "adapter")
    parcel = pack_it(tmp_path / "adapter")
    assert "tokenizer.json" in parcel.files
    assert any("could not be looked at" in note for note in parcel.notes)


def test_a_prompt_initialised_from_text_names_no_folder(tmp_path, pack_it):
    save_prompt(tmp_path / "adapter", base="alice/base")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config |= {
        "prompt_tuning_init": "TEXT",
        "prompt_tuning_init_text": "Sum up:",
        "tokenizer_name_or_path": "/home/me/t5",
    }
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    folder = pack_it(tmp_path / "adapter").folder
    assert PeftConfig.from_pretrained(str(folder)).tokenizer_name_or_path == "t5"
    PeftModel.from_pretrained(make_t5(), str(folder))


def test_a_full_model_goes_as_a_full_model(tmp_path, pack_it):
    make_llama().save_pretrained(tmp_path / "full", max_shard_size="20KB")
    make_tokenizer().save_pretrained(tmp_path / "full")
    assert len(list((tmp_path / "full").glob("model-*.safetensors"))) > 1
    parcel = pack_it(tmp_path / "full", dtype="bfloat16")
    assert parcel.kind == "full" and front(parcel)["library_name"] == "transformers"
    assert "tokenizer.json" in parcel.files
    from transformers import LlamaForCausalLM

    loaded = LlamaForCausalLM.from_pretrained(parcel.folder)
    assert loaded.dtype == torch.bfloat16
    index = json.loads((parcel.folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(f.stat().st_size for f in parcel.folder.glob("model-*.safetensors"))


@pytest.mark.parametrize("where", ["README.md", "adapter_model.safetensors", "tokenizer.json", "hfplug_task.json"])
def test_a_token_in_any_file_stops_everything(checkpoint, pack_it, tmp_path, where):
    if where == "adapter_model.safetensors":
        save_file(load_file(checkpoint / where), checkpoint / where, metadata={"format": "pt", "by": TOKEN})
    elif where == "tokenizer.json":
        make_tokenizer(("the", TOKEN)).save_pretrained(checkpoint)
    elif where == "hfplug_task.json":
        (checkpoint / where).write_text(json.dumps({"name": "x", "prompt": f"{TOKEN} {{dialogue}}"}))
    else:
        (checkpoint / where).write_text(f"# Mine\n\nlog in with {TOKEN}\n")
    with pytest.raises(UnsafeFileError, match=f"{where} holds what looks like an access token") as caught:
        pack_it(checkpoint)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("way", ["argument", "environment"])
def test_the_token_in_use_is_found_whatever_its_shape(checkpoint, pack_it, monkeypatch, way):
    (checkpoint / "README.md").write_text("# Mine\n\nmy-own-secret-42\n")
    pack_it(checkpoint)
    if way == "environment":
        monkeypatch.setenv("HF_TOKEN", "my-own-secret-42")
    with pytest.raises(UnsafeFileError, match="README.md .* on line"):
        pack_it(checkpoint, token="my-own-secret-42" if way == "argument" else None)


def test_a_token_across_two_blocks_of_a_large_file_is_found(tmp_path):
    from hfplug.hub.leaks import refuse_tokens

    for start in ((1 << 20) - 10, (2 << 20) - 36, 5):
        file = tmp_path / "large.txt"
        file.write_bytes(b"\n" * start + TOKEN.encode() + b"\n" * (1 << 20))
        with pytest.raises(UnsafeFileError, match=f"on line {start + 1};"):
            refuse_tokens("large.txt", file, [])


def test_secrets_in_settings_are_taken_out(checkpoint, pack_it, tmp_path):
    record = Record(method="lora", all_method_settings={"hub_token": TOKEN, "r": 2}, notes=(f"ran with {TOKEN}",))
    adapter = AdapterDir.write(tmp_path / "adapter", source=checkpoint, record=record)
    parcel = pack_it(adapter)
    assert all(TOKEN.encode() not in (parcel.folder / name).read_bytes() for name in parcel.files)


def test_an_edited_readme_travels_with_its_text_and_licence(checkpoint, pack_it, tmp_path):
    adapter = AdapterDir.write(tmp_path / "adapter", source=checkpoint, record=Record(method="lora"))
    readme = adapter.path / "README.md"
    readme.write_text(readme.read_text().replace("---\n", "---\nlicense: cc-by-4.0\n", 1) + "\nTrained on a Sunday.\n")
    card = (pack_it(adapter, repo_id="alice/x", licence="mit").folder / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "Trained on a Sunday." in card
    assert "# x\n" in card and "# adapter\n" not in card
    assert 'hfplug.load_from_hub("alice/x")' in card


def test_a_parcel_is_read_again_and_checked(checkpoint, pack_it):
    parcel = pack_it(checkpoint)
    assert Parcel.open(parcel.folder, parcel.files) == parcel
    assert parcel.size == sum(file.stat().st_size for file in parcel.folder.iterdir())
    with open(parcel.folder / "adapter_config.json", "a") as file:
        file.write(" ")
    with pytest.raises(AdapterError, match="adapter_config.json is not as it was packed"):
        Parcel.open(parcel.folder, parcel.files)
    (parcel.folder / "training_args.bin").write_bytes(b"\x80")
    with pytest.raises(AdapterError, match="training_args.bin does not belong into a parcel"):
        Parcel.open(parcel.folder)
    shutil.rmtree(parcel.folder)
    with pytest.raises(AdapterError, match="holds no parcel"):
        Parcel.open(parcel.folder)


def test_nothing_is_packed_over_something_else(checkpoint, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    with pytest.raises(AdapterError, match="is not empty"):
        pack(checkpoint, tmp_path / "notes", repo_id="alice/x")


def test_packing_only_reads_the_adapter(checkpoint, pack_it):
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in Path(checkpoint).iterdir()}
    pack_it(checkpoint, dtype="bfloat16")
    assert {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in Path(checkpoint).iterdir()} == before


def test_a_sum_is_of_the_bytes(checkpoint, pack_it):
    import hashlib

    parcel = pack_it(checkpoint)
    data = (parcel.folder / "README.md").read_bytes()
    assert parcel.files["README.md"] == FileSum(hashlib.sha256(data).hexdigest(), len(data))


def test_a_path_with_spaces_in_the_record_is_cut_to_its_last_part():
    found = _without_places(
        {"source": "/home/alice/My Documents/rows 1.jsonl", "note": "1 / 2", "text": "/\nnot a path"}
    )
    assert found == {"source": "rows 1.jsonl", "note": "1 / 2", "text": "/\nnot a path"}
