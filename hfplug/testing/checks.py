"""What holds for every tuning method, as functions that raise ``AssertionError`` with what was found instead."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.load import load_adapter, verify_adapter
from hfplug.errors import MethodError
from hfplug.methods import TuningMethod, get_method
from hfplug.models.factory import applied_to, build_model
from hfplug.testing.workbench import Trial, Workbench, inputs_for, logits, parameter_bytes, plain_base

ALL_WEIGHTS = "all weights"


def check_only_its_own_parameters_move(trial: Trial) -> None:
    """Three steps move what the method trains, nine tenths of it at least, and the base is bit-equal."""
    after = parameter_bytes(trial.model)
    moved = {name for name, before in trial.before.items() if before != after[name]}
    trainable = {name for name, parameter in trial.model.named_parameters() if parameter.requires_grad}
    _require(moved <= trainable, f"these moved and are not trained: {_some(moved - trainable)}")
    _require(bool(moved), "nothing moved")
    stuck = trainable - moved
    _require(len(stuck) <= 0.1 * len(trainable), f"{len(stuck)} of {len(trainable)} did not move: {_some(stuck)}")
    if trial.method.category != ALL_WEIGHTS:
        of_base = {name for name in moved if "base_layer" in name}
        _require(not of_base, f"weights of the base moved: {_some(of_base)}")


def check_untrained_it_gives_what_it_says(bench: Workbench, method: TuningMethod, kind: str) -> None:
    """Untrained it gives the base's logits if ``untrained`` is ``"base"``, and others if it is ``"changed"``."""
    folder = bench.base_for(method, kind)
    model = build_model(folder, method)
    if method.category == ALL_WEIGHTS:
        same = torch.equal(logits(model, kind), logits(build_model(folder, method), kind))
        _require(same, "before it is trained the model does not give the base's logits")
        return
    fresh = logits(model, kind)
    with method.switched_off(model) as base:
        same = torch.equal(fresh, logits(base, kind))
    found = "base" if same else "changed"
    _require(found == method.untrained, f"untrained is {method.untrained!r}, and the logits say {found!r}")


def check_saved_and_loaded_it_is_the_same(trial: Trial) -> None:
    """The exported adapter, loaded onto a fresh base, gives the same logits, and is known as this method's."""
    loaded = load_adapter(trial.folder)
    _same(logits(loaded, trial.kind), logits(trial.model, trial.kind), "loaded by hfplug it gives other logits")
    applied = applied_to(loaded)
    name = applied.method.name if applied else None
    _require(name == trial.method.name, f"loaded it is taken for {name!r}, not for {trial.method.name!r}")


def check_the_probe_knows_it(trial: Trial, folder: Path) -> None:
    """The probe in its lock finds it the same, and its weights multiplied by 1.5 different.

    Args:
        trial: The trial.
        folder: An empty folder.
    """
    from safetensors.torch import load_file

    result = verify_adapter(trial.folder)
    _require(result.verdict == "same" and result.largest < 1e-5, f"its own probe does not know it: {result}")
    files = AdapterDir.open(trial.folder).weights
    tensors = {name: tensor * 1.5 for file in files for name, tensor in load_file(file).items()}
    AdapterDir.write(folder / "other", source=trial.folder, weights=tensors)
    other = verify_adapter(folder / "other").verdict
    _require(other == "different", f"with other weights the probe says {other!r}")


def check_without_hfplug_it_is_the_same(trial: Trial) -> None:
    """Plain PEFT (or plain transformers, for a whole model) loads it to the same logits."""
    expected = logits(trial.model, trial.kind)
    if AdapterDir.open(trial.folder).kind == "full":
        model = type(trial.model).from_pretrained(trial.folder)  # type: ignore[attr-defined]
        _same(logits(model, trial.kind), expected, "loaded by transformers it gives other logits")
        return
    from peft import PeftModel

    model = PeftModel.from_pretrained(plain_base(trial), str(trial.folder))
    _same(logits(model, trial.kind), expected, "loaded by PEFT it gives other logits")


def check_switched_off_it_is_the_base(trial: Trial) -> None:
    """Switched off, forward and generate give what the base gives, bit for bit; and afterwards it is on again."""
    method, model, kind = trial.method, trial.model, trial.kind
    if method.category == ALL_WEIGHTS:
        try:
            with method.switched_off(model):
                pass
        except MethodError:
            return
        raise AssertionError("there is no base left to switch to, and it does not say so")
    base = plain_base(trial)
    changed = logits(model, kind)
    with method.switched_off(model) as plain:
        _same(logits(plain, kind), logits(base, kind), "switched off it does not give the base's logits")
        if kind != "classification":
            ask = {name: value for name, value in inputs_for(kind).items() if name != "decoder_input_ids"}
            options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
            said, expected = plain.generate(**ask, **options), base.generate(**ask, **options)  # type: ignore[operator]
            _require(torch.equal(said, expected), "switched off it does not generate what the base generates")
    _same(logits(model, kind), changed, "after being switched off it is another")


def check_pushed_and_pulled_it_is_the_same_bytes(trial: Trial, endpoint: str, token: str, cache: Path) -> None:
    """It arrives at a Hub and comes back byte for byte; pushed again, nothing changes; no file holds the token.

    Args:
        trial: The trial.
        endpoint: A Hub, e.g. that of ``hfplug.hub.server.running_hub``.
        token: Of its user ``me``.
        cache: An empty folder.
    """
    from hfplug.hub.pull import pull_adapter
    from hfplug.hub.push import push_adapter

    sent = push_adapter(trial.folder, f"me/{trial.method.name}-{trial.kind}", endpoint=endpoint, token=token)
    pulled = pull_adapter(sent.repo_id, revision=sent.commit, endpoint=endpoint, token=token, cache_dir=cache).adapter
    ours = AdapterDir.open(trial.folder)
    arrived = [file.read_bytes() for file in pulled.weights] == [file.read_bytes() for file in ours.weights]
    _require(arrived, "the weights that came back are not those that were pushed")
    names, here = {file.name for file in pulled.files()}, {file.name for file in ours.files()}
    _require(names == here, f"files that came back or were pushed only: {_some(names ^ here)}")
    holding = [file.name for file in pulled.files() if token.encode() in file.read_bytes()]
    _require(not holding, f"the token is in {_some(holding)}")
    again = push_adapter(trial.folder, sent.repo_id, endpoint=endpoint, token=token)
    _require((again.commit, again.changed) == (sent.commit, False), "pushed again without a change it made a commit")


def check_its_folder_holds_an_adapter_and_no_more(trial: Trial) -> None:
    """Only files of an adapter, and a record that names the method."""
    others = [path.name for path in trial.folder.iterdir() if not AdapterDir.allowed(path.name)]
    _require(not others, f"these are no files of an adapter: {_some(others)}")
    record = AdapterDir.open(trial.folder).record
    _require(record is not None and record.method == trial.method.name, "the record does not name the method")


def check_flags_survive(method: str, folder: Path) -> None:
    """Every setting comes through as a flag, from a JSON file and from a YAML file.

    Args:
        method: The name of a registered method.
        folder: An empty folder.
    """
    import yaml
    from transformers import HfArgumentParser, TrainingArguments

    from hfplug.training.arguments import flag_name, make_method_arguments

    cls = get_method(method)
    values = other_settings(cls)
    wanted = cls.from_settings(values)
    flags = {flag_name(cls, name): list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    parser = HfArgumentParser((make_method_arguments(), TrainingArguments))  # type: ignore[arg-type]
    words = ["--method", method, "--output_dir", str(folder)]
    for flag, value in flags.items():
        words += [f"--{flag}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    both = {"method": method, "output_dir": str(folder), **flags}
    (folder / "a.json").write_text(json.dumps(both), encoding="utf-8")
    (folder / "a.yaml").write_text(yaml.safe_dump(both), encoding="utf-8")
    found = {
        "the command line": parser.parse_args_into_dataclasses(words),
        "JSON": parser.parse_json_file(str(folder / "a.json")),
        "YAML": parser.parse_yaml_file(str(folder / "a.yaml")),
    }
    for source, parsed in found.items():
        got = parsed[0].to_method()
        _require(got == wanted, f"from {source} come {got}, not {wanted}")


def other_settings(cls: type[TuningMethod]) -> Mapping[str, Any]:
    """A value for each setting of a method; one that differs from its default where the declaration tells one."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        declared = field.metadata
        if declared.get("example") is not None:
            values[field.name] = declared["example"]
        elif declared.get("choices"):
            values[field.name] = declared["choices"][-1]
        elif isinstance(field.default, bool):
            values[field.name] = not field.default
        elif isinstance(field.default, tuple):
            values[field.name] = ("attention", "feed_forward")
        elif isinstance(field.default, int):
            values[field.name] = int(declared["low"]) + 1
        elif isinstance(field.default, float):
            values[field.name] = float(declared["low"]) + 0.1
        else:
            values[field.name] = "what it asks for: 50 %"
    return values


def _same(found: torch.Tensor, expected: torch.Tensor, otherwise: str) -> None:
    if found.shape != expected.shape:
        raise AssertionError(f"{otherwise}: of shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    _require(torch.equal(found, expected), f"{otherwise}: off by {(found - expected).abs().max():.3g}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
