"""An adapter's folder: what is read, what is refused, and that writing loses nothing of anybody's."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, T5ForConditionalGeneration

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.files import file_sha256, settings_sha256
from hfplug.adapters.lock import make_lock
from hfplug.adapters.record import Record
from hfplug.adapters.task import Task
from hfplug.errors import AdapterError, UnsafeFileError

TASK = Task(name="summary", prompt="Summarize.\n\n{dialogue}")
MakeModel = Callable[..., PreTrainedModel]
MakeFolder = Callable[..., Path]


def _tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------------------------ reading


def test_a_checkpoint_is_an_adapter_and_its_pickles_are_not_part_of_it(make_checkpoint: MakeFolder) -> None:
    adapter = AdapterDir.open(make_checkpoint())
    assert adapter.kind == "peft"
    assert [file.name for file in adapter.files()] == [
        "README.md", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    assert [file.name for file in adapter.weights] == ["adapter_model.safetensors"]
    assert adapter.tensor_names() == sorted(load_file(adapter.weights[0]))
    assert adapter.weight_bytes == adapter.weights[0].stat().st_size
    assert adapter.config["peft_type"] == "LORA"
    assert (adapter.record, adapter.lock, adapter.task, adapter.num_labels) == (None, None, None, None)


def test_a_fully_tuned_model_is_an_adapter_of_the_kind_full(tmp_path: Path, make_model: MakeModel) -> None:
    make_model().save_pretrained(tmp_path / "full")
    make_model().save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    one, many = AdapterDir.open(tmp_path / "full"), AdapterDir.open(tmp_path / "sharded")
    assert (one.kind, many.kind) == ("full", "full")
    assert len(one.weights) == 1 and len(many.weights) > 1
    assert one.tensor_names() == many.tensor_names()


def test_the_sum_depends_on_every_file_of_the_adapter_and_on_no_other(make_checkpoint: MakeFolder) -> None:
    folder = make_checkpoint()
    before = AdapterDir.open(folder).sha256()
    (folder / "optimizer.pt").write_bytes(b"other")
    assert AdapterDir.open(folder).sha256() == before
    (folder / "README.md").write_text("other")
    assert AdapterDir.open(folder).sha256() != before


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        "training_args.bin",
        "adapter_model.bin",
        "pytorch_model.bin",
        "notes.txt",
        "../README.md",
    ]
    + ["sub/README.md", "trainer_state.json", "model-1.safetensors", ".git", "hfplug_record.json.new", ""],
)
def test_no_other_name_is_allowed(name: str) -> None:
    assert not AdapterDir.allowed(name)


@pytest.mark.parametrize(
    "name",
    ["adapter_config.json", "model-00001-of-00002.safetensors", "additional_chat_templates/tool_use.jinja"]
    + ["hfplug_lock.json", "spiece.model", "README.md"],
)
def test_the_names_of_an_adapter_are_allowed(name: str) -> None:
    assert AdapterDir.allowed(name)


def test_a_folder_that_is_not_there_names_the_one_that_was_meant(make_small_source: MakeFolder) -> None:
    folder = make_small_source("adapter")
    with pytest.raises(AdapterError, match=r"no folder .*adaptr. Did you mean 'adapter'\?"):
        AdapterDir.open(folder.with_name("adaptr"))


def test_a_trainers_folder_names_its_last_checkpoint(make_small_source: MakeFolder) -> None:
    folder = make_small_source("run/checkpoint-9")
    make_small_source("run/checkpoint-10")
    with pytest.raises(AdapterError, match="Pass .*checkpoint-10"):
        AdapterDir.open(folder.parent)


def test_a_folder_around_an_adapter_names_it(make_small_source: MakeFolder) -> None:
    folder = make_small_source("out/adapter")
    with pytest.raises(AdapterError, match="Pass .*out/adapter"):
        AdapterDir.open(folder.parent)


def _cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def _lengthen(folder: Path) -> None:
    with open(folder / "adapter_model.safetensors", "ab") as file:
        file.write(b"x")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "not a whole safetensors file"),
        (_lengthen, "not a whole safetensors file"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b""), "not a whole safetensors file"),
        (
            lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0{nope"),
            "header cannot",
        ),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"version https://git-lfs"), "lfs pull"),
        (lambda f: save_file({}, f / "adapter_model.safetensors"), "holds no tensor"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "no adapter_model.safetensors"),
        (lambda f: (f / "adapter_config.json").unlink(), "without adapter_config.json"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "adapter_config.json").write_text("[]"), "must hold an object"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "no 'peft_type'"),
    ],
)
def test_a_damaged_adapter_is_refused(
    make_small_source: MakeFolder, damage: Callable[[Path], object], message: str
) -> None:
    folder = make_small_source()
    damage(folder)
    with pytest.raises(AdapterError, match=message):
        AdapterDir.open(folder)


def test_weights_as_a_pickle_are_refused_with_what_to_do(make_small_source: MakeFolder) -> None:
    folder = make_small_source()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UnsafeFileError, match=r"adapter_model.bin, a pickle.*save_pretrained"):
        AdapterDir.open(folder)


def test_a_missing_shard_is_named(tmp_path: Path, make_model: MakeModel) -> None:
    make_model().save_pretrained(tmp_path / "full", max_shard_size="10KB")
    lost = AdapterDir.open(tmp_path / "full").weights[1]
    lost.unlink()
    with pytest.raises(AdapterError, match=f"lacks {lost.name}"):
        AdapterDir.open(tmp_path / "full")


def test_an_index_that_names_a_file_elsewhere_is_refused(tmp_path: Path, make_model: MakeModel) -> None:
    make_model().save_pretrained(tmp_path / "full", max_shard_size="10KB")
    (tmp_path / "full" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
    with pytest.raises(UnsafeFileError, match="names no shards"):
        AdapterDir.open(tmp_path / "full")


def test_a_link_that_leaves_the_folder_is_refused(make_small_source: MakeFolder, tmp_path: Path) -> None:
    folder = make_small_source()
    (tmp_path / "outside.md").write_text("secret")
    (folder / "README.md").symlink_to(tmp_path / "outside.md")
    with pytest.raises(UnsafeFileError, match="link that leaves its folder"):
        AdapterDir.open(folder)


def test_the_links_of_the_hub_cache_are_fine_and_copied_as_files(make_small_source: MakeFolder, tmp_path: Path) -> None:
    source = make_small_source()
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("c" * 40)
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in source.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    written = AdapterDir.write(tmp_path / "copy", source=snapshot)
    assert not any(file.is_symlink() for file in written.path.iterdir())


@pytest.mark.parametrize("library", ["os", "evil.transformers", "transformersx"])
def test_a_configuration_that_imports_other_code_is_refused(make_small_source: MakeFolder, library: str) -> None:
    folder = make_small_source()
    mapping = {"base_model_class": "system", "parent_library": library}
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "auto_mapping": mapping}))
    with pytest.raises(UnsafeFileError, match="auto_mapping"):
        AdapterDir.open(folder)


@pytest.mark.parametrize(
    "extra", [{"megatron_core": "evil"}, {"megatron_config": {"a": 1}, "megatron_core": "megatron.core"}]
)
def test_a_configuration_that_has_older_peft_import_a_module_is_refused(make_small_source: MakeFolder, extra) -> None:
    folder = make_small_source()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **extra}))
    with pytest.raises(UnsafeFileError, match="megatron_config"):
        AdapterDir.open(folder)


def test_a_configuration_nested_beyond_reason_is_refused_in_words(make_small_source: MakeFolder) -> None:
    folder = make_small_source()
    (folder / "adapter_config.json").write_text('{"peft_type": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(AdapterError, match="cannot be read as JSON"):
        AdapterDir.open(folder)


def test_a_configuration_without_a_task_that_names_a_class_of_transformers_is_fine(
    tmp_path: Path, make_model: MakeModel
) -> None:
    get_peft_model(make_model(), LoraConfig(target_modules=["q"])).save_pretrained(tmp_path / "a")
    assert AdapterDir.open(tmp_path / "a").config["auto_mapping"]["parent_library"].startswith("transformers.")


# ------------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, init_lora_weights=False),
        PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3, num_transformer_submodules=1),
    ],
    ids=["lora", "prompt_tuning"],
)
def test_what_is_written_reads_back_whole_and_loads_in_plain_peft(
    tmp_path: Path, make_model: MakeModel, config: LoraConfig
) -> None:
    model = get_peft_model(make_model(), config).eval()
    model.save_pretrained(tmp_path / "checkpoint")
    record = Record(method="lora", base="google/flan-t5-small", data={"source": "x"})
    lock = make_lock(model, base_name="google/flan-t5-small", base_commit="a" * 40, task=TASK)
    written = AdapterDir.write(
        tmp_path / "adapter", source=tmp_path / "checkpoint", record=record, lock=lock, task=TASK
    )
    again = AdapterDir.open(tmp_path / "adapter")
    assert again == written
    sums = {"adapter_model.safetensors": file_sha256(again.path / "adapter_model.safetensors")}
    sealed = dataclasses.replace(lock, weights_sha256=sums, settings_sha256=settings_sha256(again.config))
    assert (again.record, again.lock, again.task) == (record, sealed, TASK)
    assert (again.base_name, again.base_revision) == ("google/flan-t5-small", "a" * 40)
    assert again.sha256() == written.sha256()
    loaded = PeftModel.from_pretrained(make_model(), str(again.path)).eval()
    ids = torch.arange(8).reshape(2, 4)
    with torch.no_grad():
        expected = model(input_ids=ids, labels=ids).logits
        assert torch.equal(loaded(input_ids=ids, labels=ids).logits, expected)


def test_a_fully_tuned_model_is_written_and_loads_in_plain_transformers(tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model()
    model.save_pretrained(tmp_path / "checkpoint", max_shard_size="10KB")
    written = AdapterDir.write(
        tmp_path / "full", source=tmp_path / "checkpoint", record=Record(method="full", base="a/b")
    )
    assert (written.kind, written.base_name) == ("full", "a/b")
    loaded = T5ForConditionalGeneration.from_pretrained(written.path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_an_adapter_can_be_written_from_a_configuration_and_tensors(tmp_path: Path) -> None:
    weights = {"x.lora_A.weight": torch.eye(3)[:, :2]}  # not contiguous
    written = AdapterDir.write(tmp_path / "a", config={"peft_type": "LORA"}, weights=weights)
    assert torch.equal(load_file(written.weights[0])["x.lora_A.weight"], weights["x.lora_A.weight"])


def test_a_configuration_given_replaces_that_of_the_source(tmp_path: Path, make_small_source: MakeFolder) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "a/b", "revision": "r"}
    written = AdapterDir.write(tmp_path / "a", source=make_small_source(), config=config)
    assert (written.config, written.base_name, written.base_revision) == (config, "a/b", "r")


def test_only_what_belongs_to_an_adapter_is_copied_and_the_source_stays_as_it_is(
    tmp_path: Path, make_checkpoint: MakeFolder
) -> None:
    source = make_checkpoint()
    (source / "tokenizer.json").write_text("{}")
    before = _tree(source)
    written = AdapterDir.write(tmp_path / "adapter", source=source, task=TASK)
    assert sorted(_tree(written.path)) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "hfplug_task.json", "tokenizer.json",
    ]  # fmt: skip
    assert _tree(source) == before
    assert not os.path.samefile(source / "tokenizer.json", written.path / "tokenizer.json")


def test_tokenizer_files_can_be_chosen(tmp_path: Path, make_small_source: MakeFolder) -> None:
    source = make_small_source()
    (source / "vocab.txt").write_text("of the source")
    (tmp_path / "tokenizer.json").write_text("{}")
    none = AdapterDir.write(tmp_path / "none", source=source, tokenizer_files=[])
    one = AdapterDir.write(tmp_path / "one", source=source, tokenizer_files=[tmp_path / "tokenizer.json"])
    assert not {"vocab.txt", "tokenizer.json"} & set(_tree(none.path))
    assert {"vocab.txt", "tokenizer.json"} & set(_tree(one.path)) == {"tokenizer.json"}


@pytest.mark.parametrize("name", ["spiece.bin", "added.pkl", "x.pt"])
def test_a_pickle_that_is_asked_for_is_refused(tmp_path: Path, make_small_source: MakeFolder, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UnsafeFileError, match="is a pickle"):
        AdapterDir.write(tmp_path / "a", source=make_small_source(), tokenizer_files=[tmp_path / name])
    with pytest.raises(UnsafeFileError, match="is a pickle"):
        AdapterDir.write(tmp_path / "a", config={"peft_type": "LORA"}, weights=tmp_path / name)
    assert not (tmp_path / "a").exists()


def test_the_same_adapter_again_refreshes_our_files_only(tmp_path: Path, make_small_source: MakeFolder) -> None:
    source = make_small_source()
    AdapterDir.write(tmp_path / "a", source=source, record=Record(method="lora", steps=1))
    weights = (tmp_path / "a" / "adapter_model.safetensors").stat()
    again = AdapterDir.write(tmp_path / "a", source=source, record=Record(method="lora", steps=2))
    assert again.record is not None and again.record.steps == 2
    assert again.previous is None
    assert (tmp_path / "a" / "adapter_model.safetensors").stat().st_ino == weights.st_ino
    assert sorted(os.listdir(tmp_path)) == ["a", "source"]


def test_module_names_in_another_order_are_the_same_adapter(tmp_path: Path, make_small_source: MakeFolder) -> None:
    source = make_small_source()
    for modules in (["q", "v"], ["v", "q"]):
        config = {"peft_type": "LORA", "target_modules": modules}
        assert AdapterDir.write(tmp_path / "a", source=source, config=config).previous is None


def test_another_adapter_is_kept_beside_the_new_one(
    tmp_path: Path, make_small_source: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hfplug")
    target = tmp_path / "a"
    written = [AdapterDir.write(target, source=make_small_source(f"s{i}", float(i))) for i in range(3)]
    assert [w.previous for w in written] == [None, tmp_path / "a.previous-1", tmp_path / "a.previous-2"]
    folders = [tmp_path / "a.previous-1", tmp_path / "a.previous-2", target]
    values = [load_file(AdapterDir.open(f).weights[0])["layer.lora_A.weight"][0, 0].item() for f in folders]
    assert values == [0.0, 1.0, 2.0]
    assert "is kept at" in caplog.text


def test_what_a_user_keeps_in_the_folder_is_carried_over(tmp_path: Path, make_small_source: MakeFolder) -> None:
    target = AdapterDir.write(tmp_path / "a", source=make_small_source("s0", 0.0)).path
    (target / "notes.txt").write_text("mine")
    (target / "plots" / "deep").mkdir(parents=True)
    (target / "plots" / "deep" / "p.svg").write_text("<svg/>")
    (target / "link").symlink_to("notes.txt")
    (target / "training_args.bin").write_bytes(b"\x80")
    (target / "vocab.txt").write_text("of the old adapter")
    written = AdapterDir.write(target, source=make_small_source("s1", 1.0))
    tree = _tree(target)
    assert tree["notes.txt"] == b"mine" and tree["plots/deep/p.svg"] == b"<svg/>"
    assert (target / "link").is_symlink() and tree["link"] == b"mine"
    assert not {"training_args.bin", "vocab.txt"} & set(tree)
    assert written.previous is not None and (written.previous / "training_args.bin").exists()


def test_a_readme_that_a_person_edited_is_merged_with(tmp_path: Path, make_small_source: MakeFolder) -> None:
    target = AdapterDir.write(tmp_path / "a", source=make_small_source("s0", 0.0)).path
    readme = target / "README.md"
    readme.write_text(readme.read_text() + "\nWritten by hand.\n")
    AdapterDir.write(target, source=make_small_source("s1", 1.0), record=Record(method="ia3"))
    assert "Written by hand." in readme.read_text() and "`ia3`" in readme.read_text()


def test_a_readme_that_cannot_be_merged_with_is_left_and_the_adapter_is_written(
    tmp_path: Path, make_small_source: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    target = AdapterDir.write(tmp_path / "a", source=make_small_source("s0", 0.0)).path
    (target / "README.md").write_text("---\na: [\n---\nmine")
    AdapterDir.write(target, source=make_small_source("s1", 1.0), record=Record(method="ia3"))
    assert (target / "README.md").read_text() == "---\na: [\n---\nmine"
    assert "left as it is" in caplog.text


@pytest.mark.parametrize("names", [["notes.txt"], ["config.json", "model.safetensors"], ["trainer_state.json"]])
def test_a_folder_of_something_else_is_not_written_to(
    tmp_path: Path, make_small_source: MakeFolder, names: list[str]
) -> None:
    target = tmp_path / "a"
    target.mkdir()
    for name in names:
        (target / name).write_text("mine")
    with pytest.raises(AdapterError, match="Pass "):
        AdapterDir.write(target, source=make_small_source())
    assert sorted(os.listdir(target)) == sorted(names)
    assert sorted(os.listdir(tmp_path)) == ["a", "source"]


def test_a_trainers_folder_is_not_written_to(tmp_path: Path, make_small_source: MakeFolder) -> None:
    run = make_small_source("run")
    (run / "checkpoint-5").mkdir()
    with pytest.raises(AdapterError, match="Trainer's own folder.*Pass .*run/adapter"):
        AdapterDir.write(run, source=make_small_source())


def test_an_empty_folder_is_written_to(tmp_path: Path, make_small_source: MakeFolder) -> None:
    (tmp_path / "a").mkdir()
    assert AdapterDir.write(tmp_path / "a", source=make_small_source()).previous is None
    assert sorted(os.listdir(tmp_path)) == ["a", "source"]


def test_a_damaged_adapter_is_replaced_and_kept(tmp_path: Path, make_small_source: MakeFolder) -> None:
    target = make_small_source("a")
    _cut(target)
    before = _tree(target)
    written = AdapterDir.write(target, source=make_small_source("s", 1.0))
    assert written.previous is not None and _tree(written.previous) == before


def test_a_write_that_fails_changes_nothing(tmp_path: Path, make_small_source: MakeFolder) -> None:
    target = AdapterDir.write(tmp_path / "a", source=make_small_source("s0", 0.0)).path
    before = _tree(target)
    source = make_small_source("s1", 1.0)
    _cut(source)
    with pytest.raises(AdapterError):
        AdapterDir.write(target, source=source)
    assert _tree(target) == before
    assert sorted(os.listdir(tmp_path)) == ["a", "s0", "s1"]


# ---------------------------------------------------------------------------------------------- being killed

WRITER = """
import sys
import hfplug.adapters.card
from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.record import Record
assert "torch" not in sys.modules
target, *sources = sys.argv[1:]
print("ready", flush=True)
while True:
    for source in sources:
        name = source.rsplit("/", 1)[-1]
        AdapterDir.write(target, source=source, record=Record(method=name, versions={}))
        print("written", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("sources", [2, 1], ids=["another adapter each time", "the same adapter refreshed"])
def test_a_kill_at_any_moment_leaves_a_whole_adapter(
    tmp_path: Path, make_small_source: MakeFolder, sources: int
) -> None:
    folders = [make_small_source(f"method{i}", float(i)) for i in range(sources)]
    for i, folder in enumerate(folders):
        (folder / "vocab.txt").write_text(str(i) * 100_000)
    target = tmp_path / "out" / "a"
    AdapterDir.write(target, source=folders[0], record=Record(method="method0", versions={}))
    (target / "notes.txt").write_text("mine")
    chance = random.Random(0)
    seen, interrupted, seconds = set(), 0, 0.05
    for kill in range(20 if sources == 2 else 6):
        folders.reverse()
        arguments = [sys.executable, "-c", WRITER, str(target), *map(str, folders)]
        writer = subprocess.Popen(arguments, stdout=subprocess.PIPE)
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        if kill % 4 == 0:  # how long a write takes at the moment, to aim within one
            start = time.monotonic()
            assert writer.stdout.readline() == b"written\n"
            seconds = time.monotonic() - start
        time.sleep(chance.uniform(0, 2 * seconds))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        adapter = AdapterDir.open(target)
        value = load_file(adapter.weights[0])["layer.lora_A.weight"][0, 0].item()
        assert adapter.record is not None and adapter.record.method == f"method{value:.0f}"
        assert (target / "vocab.txt").read_text() == f"{value:.0f}" * 100_000
        assert f"`method{value:.0f}`" in (target / "README.md").read_text()
        assert (target / "notes.txt").read_text() == "mine"
        seen.add(value)
        interrupted += any(p.name.startswith(".") for p in [*target.parent.iterdir(), *target.iterdir()])
        for previous in target.parent.glob("a.previous-*"):
            assert AdapterDir.open(previous).record is not None
            shutil.rmtree(previous)
    assert len(seen) == sources and interrupted
    # The next write clears what the killed ones left.
    AdapterDir.write(target, source=folders[0], record=Record(method="method0", versions={}))
    left = {p.name for p in target.parent.iterdir()} | {p.name for p in target.iterdir()}
    assert not {name for name in left if name.startswith(".")}
