"""Pushing while training (hfplug/training/push.py): tiny runs against a Hub on loopback that fails in every way."""

from __future__ import annotations

import functools
import json
import logging
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from faults import KINDS
from huggingface_hub import HfApi
from huggingface_hub.utils import get_session
from peft import LoraConfig, get_peft_model
from safetensors.torch import load, load_file
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import hfplug
from hfplug.hub.deliver import Pace, flush_outbox
from hfplug.hub.outbox import Outbox
from hfplug.training.push import HubPushCallback

REPO = "alice/tiny"
QUICK = Pace(first_wait=0.002, longest_wait=0.02, busy_wait=0.005, timeout=5.0)
WEIGHTS = "adapter_model.safetensors"


class Hurried:
    """The clock for the client's own retries of some requests: what it waits for is not tested here."""

    sleep = staticmethod(lambda seconds, sleep=time.sleep: sleep(seconds / 200))

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Any) -> Path:
    """An outbox of its own, and the Hub and token of the test in the environment."""
    monkeypatch.setenv("HFPLUG_OUTBOX", str(tmp_path / "outbox"))
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr("huggingface_hub.utils._http.time", Hurried())
    return tmp_path


def tiny_model() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))


class Watcher(TrainerCallback):
    """Keeps the bytes of each checkpoint's weights before anybody else sees them."""

    def __init__(self, folder: str = ".") -> None:
        self.folder = folder
        self.saved: list[bytes] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.folder
        self.saved.append((checkpoint / WEIGHTS).read_bytes())


def make_trainer(
    out: Path,
    *,
    steps: int = 4,
    model: Any = None,
    watcher: Watcher | None = None,
    pace: Pace = QUICK,
    push: dict[str, Any] | None = None,
    **args: Any,
) -> Trainer:
    ids = torch.randint(3, 32, (4 * steps, 6), generator=torch.Generator().manual_seed(1)).tolist()
    rows = Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * 6] * len(ids), "labels": ids})
    settings = {"save_steps": 1, "logging_steps": 1, "learning_rate": 1e-2, **args}
    return Trainer(
        model=hfplug.apply_method(tiny_model(), "lora", r=2) if model is None else model,
        args=TrainingArguments(
            output_dir=str(out),
            max_steps=steps,
            per_device_train_batch_size=2,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            **settings,
        ),
        train_dataset=rows,
        eval_dataset=rows.select(range(2)),
        callbacks=[
            *([watcher] if watcher else []),
            *hfplug.adapter_callbacks(push_to=REPO, pace=pace, **{"flush_seconds": 60.0, **(push or {})}),
        ],
    )


def pusher(trainer: Trainer) -> HubPushCallback:
    return next(item for item in trainer.callback_handler.callbacks if isinstance(item, HubPushCallback))


def commits(hub: Any, repo: str = REPO, revision: str | None = None) -> list[tuple[str, str]]:
    """Commit and title, oldest first, without the one that made the repo."""
    listed = HfApi(endpoint=hub.endpoint, token=hub.token).list_repo_commits(repo, revision=revision)
    return [(item.commit_id, item.title) for item in reversed(listed)][1:]


def read(hub: Any, commit: str, name: str = WEIGHTS, repo: str = REPO) -> bytes:
    answer = get_session().get(
        f"{hub.endpoint}/{repo}/resolve/{commit}/{name}",
        headers={"authorization": f"Bearer {hub.token}"},
        follow_redirects=True,
    )
    answer.raise_for_status()
    return answer.content


def check_arrived(hub: Any, watcher: Watcher, out: Path, *, policy: str = "every") -> None:
    """Each checkpoint and the export: in order, once, byte for byte; and the outbox empty."""
    found = commits(hub)
    steps = [int(title.rpartition("-")[2]) for _, title in found if title.startswith("checkpoint-")]
    assert [title for _, title in found if not title.startswith("checkpoint-")] == [
        f"The adapter after {len(watcher.saved)} steps"
    ]
    assert steps == list(range(1, len(watcher.saved) + 1)) if policy == "every" else steps == sorted(set(steps))
    for commit, title in found:
        weights = watcher.saved[int(title.rpartition("-")[2]) - 1] if title.startswith("checkpoint-") else None
        expected = weights if weights is not None else (out / "adapter" / WEIGHTS).read_bytes()
        assert read(hub, commit) == expected
    assert [entry.message for queue in Outbox().queues() for entry in queue.entries()] == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.startswith("hfplug") and r.levelno >= logging.WARNING]


def no_token_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture, *tokens: str) -> None:
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != "training_args.bin"]
    held = [str(p) for p in files for token in tokens if token.encode() in p.read_bytes()]
    assert held == [] and not any(token in caplog.text for token in tokens)


# ------------------------------------------------------------------------------------------- nothing goes wrong


def test_every_checkpoint_and_the_export_arrive(hub, tmp_path):
    watcher = Watcher()
    make_trainer(tmp_path / "run", watcher=watcher).train()
    check_arrived(hub, watcher, tmp_path / "run")
    names = set(HfApi(endpoint=hub.endpoint, token=hub.token).list_repo_files(REPO))
    assert names - {".gitattributes"} == {
        "README.md", "adapter_config.json", WEIGHTS, "hfplug_lock.json", "hfplug_record.json"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "weights"),
    [("full", "model.safetensors"), pytest.param("prompt_tuning", WEIGHTS, marks=pytest.mark.slow)],
)
def test_other_methods_are_pushed_as_they_were_saved(hub, tmp_path, method, weights):
    model = hfplug.apply_method(tiny_model(), method)
    make_trainer(tmp_path / "run", steps=2, model=model).train()
    found = commits(hub)
    assert [title for _, title in found] == ["checkpoint-1", "checkpoint-2", "The adapter after 2 steps"]
    sent = [read(hub, commit, weights) for commit, _ in found[:2]]
    assert sent == [(tmp_path / "run" / f"checkpoint-{step}" / weights).read_bytes() for step in (1, 2)]


def test_weights_can_be_pushed_in_another_dtype_while_the_checkpoint_stays_as_it_is(hub, tmp_path):
    make_trainer(tmp_path / "run", steps=1, push={"dtype": "bfloat16", "licence": "mit"}).train()
    commit = commits(hub)[0][0]
    assert {tensor.dtype for tensor in load(read(hub, commit)).values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in load_file(tmp_path / "run" / "checkpoint-1" / WEIGHTS).values()} == {
        torch.float32
    }
    assert "license: mit" in read(hub, commit, "README.md").decode()


def test_what_is_pushed_in_mid_run_is_the_record_so_far(hub, tmp_path):
    make_trainer(tmp_path / "run", eval_strategy="steps", eval_steps=1).train()
    records = [json.loads(read(hub, commit, "hfplug_record.json")) for commit, _ in commits(hub)]
    assert [record["steps"] for record in records] == [1, 2, 3, 4, 4]
    assert [len(record["loss_curve"]) for record in records] == [1, 2, 3, 4, 4]
    values = [step[1] for step in records[-1]["eval_loss_curve"]]
    assert [record["best_value"] for record in records[:4]] == values


def test_a_checkpoint_that_is_deleted_at_once_has_been_taken_before(hub, tmp_path):
    watcher = Watcher()
    hub.faults.next(3, "500")
    make_trainer(tmp_path / "run", watcher=watcher, save_total_limit=1).train()
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1
    check_arrived(hub, watcher, tmp_path / "run")


def test_only_the_best_are_pushed_if_asked_for(hub, tmp_path):
    watcher = Watcher()
    trainer = make_trainer(
        tmp_path / "run",
        steps=6,
        watcher=watcher,
        push={"push_when": "best"},
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        learning_rate=3.0,
        lr_scheduler_type="constant",
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    best = [n + 1 for n, loss in enumerate(losses) if loss < min(losses[:n], default=float("inf"))]
    assert len(best) < 6
    *pushed, last = commits(hub)
    assert [title for _, title in pushed] == [f"checkpoint-{step}" for step in best]
    assert read(hub, last[0]) == watcher.saved[best[-1] - 1]


def test_the_end_only(hub, tmp_path):
    make_trainer(tmp_path / "run", push={"push_when": "end"}).train()
    assert [title for _, title in commits(hub)] == ["The adapter after 4 steps"]


@pytest.mark.parametrize("best", [pytest.param(False, marks=pytest.mark.slow), True], ids=["last", "best"])
def test_a_named_adapter_is_pushed_with_its_weights(hub, tmp_path, best):
    watcher = Watcher("mine")
    model = get_peft_model(tiny_model(), LoraConfig(r=2, target_modules=["q_proj"]), adapter_name="mine")
    more = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True} if best else {}
    make_trainer(tmp_path / "run", model=model, watcher=watcher, **more).train()
    check_arrived(hub, watcher, tmp_path / "run")
    assert len({read(hub, commit) for commit, _ in commits(hub)}) == 4


def test_a_private_repo_is_private_and_a_branch_is_a_branch(hub, tmp_path):
    make_trainer(tmp_path / "run", steps=2, push={"private": "on", "revision": "try-1"}).train()
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    assert api.model_info(REPO).private is True
    titles = [item.title for item in api.list_repo_commits(REPO, revision="try-1")]
    assert titles[:3] == ["The adapter after 2 steps", "checkpoint-2", "checkpoint-1"]
    assert "checkpoint-1" not in [item.title for item in api.list_repo_commits(REPO)]


def test_a_resumed_run_goes_on_where_the_first_one_stopped(hub, tmp_path):
    first, second = Watcher(), Watcher()
    make_trainer(tmp_path / "run", steps=2, watcher=first).train()
    make_trainer(tmp_path / "run", steps=4, watcher=second).train(resume_from_checkpoint=True)
    titles = [title for _, title in commits(hub)]
    assert [title for title in titles if title.startswith("checkpoint")] == [f"checkpoint-{n}" for n in (1, 2, 3, 4)]
    sent = [read(hub, commit) for commit, title in commits(hub) if title.startswith("checkpoint")]
    assert sent == first.saved + second.saved


class KilledBeforeThePush(TrainerCallback):
    """Ends the run after checkpoint 2 is on the disk and before it is in the outbox."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            raise KeyboardInterrupt


BEST = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "metric_for_best_model": "loss"}


@pytest.mark.parametrize(
    ("push", "more"),
    [pytest.param({}, {}, marks=pytest.mark.slow), ({"dtype": "bfloat16"}, {}), ({"push_when": "best"}, BEST)],
    ids=["as it is", "another dtype", "best"],
)
def test_a_checkpoint_that_a_killed_run_could_not_put_in_is_put_in_when_it_is_resumed(hub, tmp_path, push, more):
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "run", steps=3, watcher=KilledBeforeThePush(), push=push, **more).train()
    make_trainer(tmp_path / "run", steps=3, push=push, **more).train(resume_from_checkpoint=True)
    titles = [title for _, title in commits(hub) if title.startswith("checkpoint")]
    assert titles == [f"checkpoint-{n}" for n in (1, 2, 3)]
    # What has arrived is not put in again.
    make_trainer(tmp_path / "run", steps=3, push=push, **more).train(resume_from_checkpoint=True)
    found = [title for _, title in commits(hub) if title.startswith("checkpoint")]
    assert found[:3] == titles and len(set(found)) == len(found)


def test_a_sharded_checkpoint_whose_first_shard_is_an_earlier_ones_is_put_in_when_it_is_resumed(hub, tmp_path):
    def sharded() -> Any:
        model = tiny_model()
        # The same in every checkpoint: a first shard of the same bytes.
        model.lm_head.weight.requires_grad_(False)
        model.model.embed_tokens.weight.requires_grad_(False)
        model.save_pretrained = functools.partial(model.save_pretrained, max_shard_size="1KB")
        return model

    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path / "run", steps=2, model=sharded(), watcher=KilledBeforeThePush()).train()
    one, two = (sorted((tmp_path / "run" / f"checkpoint-{n}").glob("model-*")) for n in (1, 2))
    assert len(two) > 1 and one[0].read_bytes() == two[0].read_bytes()
    make_trainer(tmp_path / "run", steps=2, model=sharded()).train(resume_from_checkpoint=True)
    assert "checkpoint-2" in [title for _, title in commits(hub)]


def test_an_interrupted_run_leaves_what_was_not_sent_in_the_outbox(hub, tmp_path, caplog):
    class Interrupted(Watcher):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    watcher = Interrupted()
    hub.faults.next(10_000, "500")
    trainer = make_trainer(tmp_path / "run", watcher=watcher)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    pusher(trainer)._say_what_waits()  # as the end of the process does
    assert "2 pushes to alice/tiny still in the outbox" in warnings(caplog)[-1]
    hub.faults.clear()
    assert flush_outbox(pace=QUICK).delivered == 2
    assert [read(hub, commit) for commit, _ in commits(hub)] == watcher.saved


# ------------------------------------------------------------------------------------------- each failure alone


ELSEWHERE = ("", "/preupload/", "/repos/create", "/info/lfs")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["/commit/", *(pytest.param(path, marks=pytest.mark.slow) for path in ELSEWHERE)])
def test_a_failure_that_passes_costs_nothing(hub, tmp_path, kind, where, caplog):
    watcher = Watcher()
    hub.faults.next(2, kind, match=where, seconds=0.05, retry_after=0.02)
    make_trainer(tmp_path / "run", steps=2, watcher=watcher).train()
    # A repo is made once, and that request is repeated only if it failed for all one can see.
    assert hub.faults.left <= (where == "/repos/create")
    check_arrived(hub, watcher, tmp_path / "run")
    no_token_anywhere(tmp_path, caplog, hub.token)


def test_a_hub_that_is_down_for_the_whole_run_gets_everything_from_a_flush(hub, tmp_path, caplog):
    watcher = Watcher()
    hub.faults.next(10_000, "reset")
    make_trainer(tmp_path / "run", watcher=watcher, push={"flush_seconds": 0.1}).train()
    said = warnings(caplog)
    assert "5 pushes to alice/tiny still in the outbox" in said[-1] and said[-1].endswith("type: hfplug outbox flush")
    assert len([line for line in said if "Training goes on" in line]) == 1
    hub.faults.clear()
    assert flush_outbox(pace=QUICK).delivered == 5
    check_arrived(hub, watcher, tmp_path / "run")
    no_token_anywhere(tmp_path, caplog, hub.token)


def nothing_arrives(hub: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, said: str) -> Watcher:
    """Train against a Hub that refuses for good: said once, tried at most once more at the end, all kept."""
    watcher = Watcher()
    make_trainer(tmp_path / "run", watcher=watcher).train()
    lines = warnings(caplog)
    assert len([line for line in lines if "Training goes on" in line and said in line]) == 1, lines
    assert "5 pushes to alice/tiny still in the outbox" in lines[-1] and said in lines[-1]
    (queue,) = Outbox().queues()
    entries = queue.entries()
    assert len(entries) == 5 and 1 <= entries[0].attempts <= 2 and said in entries[0].error
    assert [entry.attempts for entry in entries[1:]] == [0] * 4
    return watcher


def test_401_a_token_that_is_not_accepted(hub, tmp_path, caplog, monkeypatch):
    wrong = "hf_" + "wrongTokenWrongToken" * 2
    monkeypatch.setenv("HF_TOKEN", wrong)
    watcher = nothing_arrives(hub, tmp_path, caplog, "hf auth login")
    no_token_anywhere(tmp_path, caplog, wrong)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert flush_outbox(pace=QUICK).delivered == 5
    check_arrived(hub, watcher, tmp_path / "run")


def test_403_a_token_of_somebody_else(hub, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.other_token)
    nothing_arrives(hub, tmp_path, caplog, "token may not do that")
    no_token_anywhere(tmp_path, caplog, hub.other_token, hub.token)


def test_a_card_that_the_hub_rejects(hub, tmp_path, caplog):
    hub.faults.next(10_000, "400", match="/commit/")
    nothing_arrives(hub, tmp_path, caplog, "refuses what was sent")


@pytest.mark.parametrize(
    ("status", "said"), [pytest.param("402", "plan of the account", marks=pytest.mark.slow), ("413", "too large")]
)
def test_a_quota_that_is_used_up(hub, tmp_path, caplog, status, said):
    hub.faults.next(10_000, status, match="/commit/")
    watcher = nothing_arrives(hub, tmp_path, caplog, said)
    hub.faults.clear()
    assert flush_outbox(pace=QUICK).delivered == 5
    check_arrived(hub, watcher, tmp_path / "run")


def test_412_for_ever_stops_and_keeps_everything(hub, tmp_path, caplog):
    hub.faults.next(10_000, "412", match="/commit/")
    watcher = Watcher()
    make_trainer(tmp_path / "run", watcher=watcher).train()
    assert "5 pushes to alice/tiny still in the outbox" in warnings(caplog)[-1]
    assert Outbox().queues()[0].entries()[0].attempts <= 2 * QUICK.conflicts
    hub.faults.clear()
    assert flush_outbox(pace=QUICK).delivered == 5
    check_arrived(hub, watcher, tmp_path / "run")


def test_commits_of_somebody_else_in_between_stay_and_the_checkpoints_arrive(hub, tmp_path):
    class Other(Watcher):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_save(args, state, control, **kwargs)
            api = HfApi(endpoint=hub.endpoint, token=hub.token)
            api.create_repo(REPO, exist_ok=True)
            name = f"notes-{state.global_step}.txt"
            api.upload_file(path_or_fileobj=b"notes", path_in_repo=name, repo_id=REPO, commit_message=f"by hand {name}")

    watcher = Other()
    make_trainer(tmp_path / "run", steps=6, watcher=watcher).train()
    found = commits(hub)
    assert [title for _, title in found if title.startswith("checkpoint")] == [f"checkpoint-{n}" for n in range(1, 7)]
    assert [read(hub, commit) for commit, title in found if title.startswith("checkpoint")] == watcher.saved
    assert read(hub, found[-1][0], "notes-1.txt") == b"notes"


# --------------------------------------------------------------------------------------------- mixed at random


def check_schedule(hub: Any, tmp_path: Path, seed: int) -> None:
    """Between three and ten failures of all kinds at random places of one run."""
    rng = random.Random(seed)
    for _ in range(rng.randint(3, 10)):
        kind = rng.choice(KINDS)
        match = rng.choice(["", "/commit/", "/preupload/", "GET", "POST"])
        hub.faults.next(rng.randint(1, 3), kind, match=match, seconds=0.05, retry_after=0.02)
    watcher = Watcher()
    make_trainer(tmp_path / "run", steps=rng.randint(2, 4), watcher=watcher).train()
    assert hub.faults.struck
    check_arrived(hub, watcher, tmp_path / "run")


@pytest.mark.parametrize("seed", range(10))
def test_failures_mixed_at_random_lose_nothing_and_repeat_nothing(hub, tmp_path, seed):
    check_schedule(hub, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 200))
def test_failures_mixed_at_random_many_times(hub, tmp_path, seed):
    check_schedule(hub, tmp_path, seed)


def test_the_newest_wins_if_asked_for_and_says_how_many_it_replaced(hub, tmp_path):
    watcher = Watcher()
    hub.faults.next(40, "500", match="/commit/|/repos/create")
    make_trainer(tmp_path / "run", steps=6, watcher=watcher, push={"push_policy": "newest"}).train()
    check_arrived(hub, watcher, tmp_path / "run", policy="newest")
    outcomes = [line["outcome"] for line in Outbox().queues()[0].history()]
    assert outcomes[-1] == "delivered" and outcomes.count("replaced") >= 1
    assert outcomes.count("delivered") + outcomes.count("replaced") == 7


# ------------------------------------------------------------------------------------------------ disk, settings


def test_an_outbox_that_cannot_be_written_is_a_warning_and_training_goes_on(hub, tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HFPLUG_OUTBOX", str(tmp_path / "file" / "outbox"))
    trainer = make_trainer(tmp_path / "run")
    trainer.train()
    assert trainer.state.global_step == 4 and (tmp_path / "run" / "adapter" / WEIGHTS).is_file()
    said = warnings(caplog)
    assert len([line for line in said if "could not put" in line and "HFPLUG_OUTBOX" in line]) == 1
    assert "5 pushes to alice/tiny could not be put into the outbox" in said[-1]


def test_trainers_own_push_is_warned_of(hub, tmp_path, caplog):
    trainer = make_trainer(tmp_path / "run", steps=1)
    trainer.args.push_to_hub = True
    callback = pusher(trainer)
    callback.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    callback._say_what_waits()
    assert [line for line in warnings(caplog) if "training_args.bin" in line and "push_to_hub=False" in line]


def test_best_without_a_metric_is_refused_before_the_first_step(hub, tmp_path):
    trainer = make_trainer(tmp_path / "run", push={"push_when": "best"})
    with pytest.raises(hfplug.TrainingError, match="metric_for_best_model"):
        trainer.train()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("place", ["argument", "environment"])
def test_a_password_in_the_address_is_refused_before_the_first_step_and_not_shown(tmp_path, caplog, monkeypatch, place):
    address = "http://alice:my-own-secret@127.0.0.1:1"
    if place == "environment":
        monkeypatch.setenv("HF_ENDPOINT", address)
    trainer = make_trainer(tmp_path / "run", push={"endpoint": address} if place == "argument" else {})
    with pytest.raises(hfplug.TrainingError, match="HF_TOKEN") as caught:
        trainer.train()
    assert trainer.state.global_step == 0 and "my-own-secret" not in str(caught.value) + caplog.text


def test_a_token_that_cannot_be_one_does_not_keep_checkpoints_out_of_the_outbox(hub, tmp_path, caplog, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_\u2026")
    make_trainer(tmp_path / "run", steps=1).train()
    assert "2 pushes to alice/tiny still in the outbox" in warnings(caplog)[-1]
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert flush_outbox(pace=QUICK).delivered == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"push_to": "tiny"}, "owner/name"),
        ({"push_to": REPO, "push_when": "saves"}, "Did you mean 'save'"),
        ({"push_to": REPO, "push_policy": "all"}, "every, newest"),
        ({"push_to": REPO, "private": "yes"}, "on, off"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(hfplug.TrainingError, match=re.escape(said)):
        hfplug.adapter_callbacks(**settings)


def test_without_push_to_there_is_no_push():
    assert [type(callback).__name__ for callback in hfplug.adapter_callbacks()] == [
        "GuardCallback",
        "MeterCallback",
        "ExporterCallback",
    ]


def test_a_token_of_the_training_arguments_is_used_and_kept_in_memory_only(hub, tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    watcher = Watcher()
    make_trainer(tmp_path / "run", steps=2, watcher=watcher, hub_token=hub.token).train()
    check_arrived(hub, watcher, tmp_path / "run")
    no_token_anywhere(tmp_path, caplog, hub.token)
