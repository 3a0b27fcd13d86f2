"""Votes: none is lost, none is counted twice, and none holds a person's words unless that was asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scipy.stats import binomtest
from space_parts import ALICES_TOKEN

from hfplug.errors import HubError, SpaceError
from hfplug.space.ballot_box import BallotBox, open_votes
from hfplug.space.config import SpaceConfig
from hfplug.space.votes import Vote, VoteFile, summarize, wilson

REPO = "alice/votes"


def vote(choice="lora", shown=("base", "lora"), **more):
    return Vote(shown=shown, choice=choice, **more)


def test_a_vote_comes_back_as_it_went(tmp_path):
    went = vote(
        example="first", task="summary", decoding={"seed": 3}, commits={"lora": "a" * 40}, base="me/b", session="x",
        dialogue="A: hi \ud800", answers={"lora": "ja", "base": "nein"},
    )  # fmt: skip
    file = VoteFile(tmp_path / "deep" / "votes.jsonl", keep_text="on")
    file.add(went)
    (came,) = file.votes()
    assert came == went


def test_the_words_of_people_are_left_out_unless_asked_for(tmp_path):
    file = VoteFile(tmp_path / "votes.jsonl")
    file.add(vote(dialogue="our secret", answers={"lora": "their secret"}, base="/home/secret/base"))
    text = (tmp_path / "votes.jsonl").read_text()
    assert "secret" not in text and '"base": "base"' in text


@pytest.mark.parametrize(
    "values",
    [{"shown": ("a",)}, {"shown": ("a", "a")}, {"choice": "c"}, {"shown": ("a", "tie"), "choice": "tie"}],
)
def test_what_is_no_vote_is_refused(values):
    with pytest.raises(SpaceError):
        vote(**{"shown": ("a", "b"), "choice": "a", **values})


def test_processes_that_vote_at_once_lose_none(tmp_path):
    code = (
        "import sys\nfrom hfplug.space.votes import Vote, VoteFile\nfile = VoteFile(sys.argv[1])\n"
        "for _ in range(25):\n    file.add(Vote(shown=('a', 'b'), choice='a'))\n"
    )
    path = tmp_path / "votes.jsonl"
    processes = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    votes = list(VoteFile(path).votes())
    assert len(votes) == len({one.id for one in votes}) == 75


def test_a_line_that_was_cut_short_costs_that_vote_alone(tmp_path, caplog):
    path = tmp_path / "votes.jsonl"
    file = VoteFile(path)
    file.add(vote())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40] + b"\n[1]\n\xff\xfe\n" + whole[:30])
    file.add(vote("base"))
    assert [one.choice for one in file.votes()] == ["lora", "base"]
    assert "4 lines are no votes" in caplog.text


def test_a_place_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpaceError, match="could not be kept"):
        VoteFile(tmp_path / "file" / "votes.jsonl").add(vote())


def test_the_summary_counts_each_vote_once_and_pairs_with_an_interval():
    three = ("base", "full", "lora")
    votes = [
        *[vote() for _ in range(7)], *[vote("base") for _ in range(2)], vote("tie"), vote("neither"),
        vote("full", three), vote("lora", three),
    ]  # fmt: skip
    found = summarize([*votes, votes[0]])
    assert (found.votes, found.ties, found.neither) == (13, 1, 1)
    assert (dict(found.wins), dict(found.shown)) == (
        {"lora": 8, "base": 2, "full": 1},
        {"base": 13, "lora": 13, "full": 2},
    )
    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    assert list(pairs) == [("base", "full"), ("base", "lora"), ("full", "lora")]
    base_lora = pairs["base", "lora"]
    assert (base_lora.first_wins, base_lora.second_wins, base_lora.ties) == (2, 8, 3)
    expected = binomtest(2, 10).proportion_ci(method="wilson")
    assert (base_lora.low, base_lora.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert summarize([vote("tie")]).pairs[0].share is None


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 20), (13, 40), (999, 1000)])
def test_the_interval_is_wilsons(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), rel=1e-12, abs=1e-15)


# ---------------------------------------------------------------------------------------------- on a Hub


@pytest.fixture
def as_alice(space_hub, monkeypatch):
    monkeypatch.setenv("HFPLUG_SPACE_VOTES_TOKEN", ALICES_TOKEN)
    return space_hub


def box_of(hub, folder, **options):
    return BallotBox(REPO, folder, endpoint=hub.endpoint, **{"every_seconds": 3600, **options})


def on_the_hub(hub):
    """Names of the batches, and the ids of the votes in them."""
    info = hub.api.dataset_info(REPO)
    names = sorted(item.rfilename for item in info.siblings if item.rfilename.startswith("data/"))
    ids = []
    for name in names:
        path = hub.api.hf_hub_download(REPO, name, repo_type="dataset", revision=info.sha)
        ids += [json.loads(line)["id"] for line in Path(path).read_text(encoding="utf-8").splitlines()]
    return names, ids


def commits(hub):
    return [item.title for item in hub.api.list_repo_commits(REPO, repo_type="dataset")]


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


def test_votes_go_in_batches_of_one_commit_to_a_private_dataset(as_alice, tmp_path):
    box = box_of(as_alice, tmp_path / "box", every_votes=3)
    sent = [vote() for _ in range(3)]
    for one in sent:
        box.add(one)
    wait_for(lambda: not list((tmp_path / "box" / "outgoing").glob("*")) and (tmp_path / "box" / "delivered").exists())
    names, ids = on_the_hub(as_alice)
    assert len(names) == 1 and ids == [one.id for one in sent]
    assert as_alice.api.dataset_info(REPO).private
    box.add(vote())
    box.close()
    names, ids = on_the_hub(as_alice)
    assert len(names) == 2 and len(ids) == 4 and box.summary().votes == 4
    assert commits(as_alice) == ["Votes", "Votes", "initial commit"]


def test_with_the_hub_down_votes_wait_on_the_disk_and_arrive_when_it_is_back(as_alice, tmp_path):
    box = box_of(as_alice, tmp_path / "box")
    as_alice.stop()
    sent = [vote() for _ in range(3)]
    for one in sent:
        box.add(one)
    with pytest.raises(HubError):
        box.deliver()
    assert box.summary().votes == 3
    as_alice.start()
    again = box_of(as_alice, tmp_path / "box")  # as after a restart of the Space
    again.add(vote())
    again.deliver()
    _, ids = on_the_hub(as_alice)
    assert set(ids) >= {one.id for one in sent} and len(ids) == len(set(ids)) == 4
    assert again.summary().votes == 4


def test_a_commit_whose_answer_was_lost_is_not_made_twice(as_alice, tmp_path):
    box = box_of(as_alice, tmp_path / "box")
    (tmp_path / "box").mkdir()
    box.start = lambda: None  # delivered by hand here
    box.add(vote())
    as_alice.gate.lose.append("/commit/")
    with pytest.raises(HubError):
        box.deliver()
    assert len(commits(as_alice)) == 2
    assert box.deliver() == 1
    assert len(commits(as_alice)) == 2 and len(on_the_hub(as_alice)[1]) == 1


def test_a_token_that_may_not_write_loses_nothing(space_hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HFPLUG_SPACE_VOTES_TOKEN", raising=False)
    box = box_of(space_hub, tmp_path / "box")
    box.add(vote())
    with pytest.raises(HubError):
        box.deliver()
    box.close()
    assert box.summary().votes == 1


def test_copies_of_a_space_do_not_overwrite_one_another_and_count_all(as_alice, tmp_path):
    one, other = box_of(as_alice, tmp_path / "one"), box_of(as_alice, tmp_path / "other")
    one.add(vote())
    other.add(vote("base"))
    one.deliver()
    other.deliver()
    assert len(on_the_hub(as_alice)[1]) == 2
    one.receive()
    assert one.summary().wins == {"lora": 1, "base": 1}


def test_votes_are_sent_when_the_process_ends(as_alice, tmp_path):
    code = (
        "import sys\nfrom hfplug.space.ballot_box import BallotBox\nfrom hfplug.space.votes import Vote\n"
        "box = BallotBox('alice/votes', sys.argv[1], endpoint=sys.argv[2])\n"
        "for _ in range(4):\n    box.add(Vote(shown=('a', 'b'), choice='a'))\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "box"), as_alice.endpoint]
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    subprocess.run(words, check=True, timeout=60, env={**os.environ, **home})
    assert len(on_the_hub(as_alice)[1]) == 4


def test_where_votes_go_follows_from_the_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    assert open_votes(SpaceConfig(folder=tmp_path)) is None
    assert open_votes(SpaceConfig(folder=tmp_path, votes="v.jsonl")).path == tmp_path / "v.jsonl"
    box = open_votes(SpaceConfig(folder=tmp_path, votes="me/votes", votes_folder="waiting"))
    assert (box.repo_id, box.folder) == ("me/votes", tmp_path / "waiting")


def test_what_an_earlier_process_left_is_delivered_at_the_start(as_alice, tmp_path):
    left = box_of(as_alice, tmp_path / "votes")
    left.start = lambda: None  # it ended before it could deliver
    left.add(vote())
    settings = SpaceConfig(folder=tmp_path, votes=REPO, endpoint=as_alice.endpoint)
    box = open_votes(settings)
    wait_for(lambda: list((tmp_path / "votes" / "delivered").glob("*")))
    assert len(on_the_hub(as_alice)[1]) == 1
    box.close()
