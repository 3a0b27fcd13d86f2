"""From the demo's adapters to a Hub on this machine and back: pushed, pulled by commit, asked their probe."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hfplug.adapters.adapter_dir import AdapterDir
from hfplug.adapters.load import verify_adapter
from hfplug.adapters.probe import ProbeResult
from hfplug.comparison.progress import Progress
from hfplug.demo.base import base_path
from hfplug.hub.pull import pull_adapter
from hfplug.hub.push import push_adapter
from hfplug.hub.server import running_hub

OWNER = "demo"
# What the built-in base would be called on a Hub. It is in the package, so nobody has to look for it there.
BASE_NAME = "hfplug-tiny-t5"


@dataclass(frozen=True)
class RoundTrip:
    """One adapter that was pushed and pulled.

    Attributes:
        name: Of the variant, e.g. ``"lora"``.
        repo_id: Where it is on the Hub.
        commit: The commit that was pulled.
        pushed: Whether this run made the commit; False if the Hub held the same bytes already.
        weight_bytes: Size of its weights.
        same_bytes: Whether the weights came back byte for byte.
        probe: What the pulled adapter answers, against what was seen when it was exported.
    """

    name: str
    repo_id: str
    commit: str
    pushed: bool
    weight_bytes: int
    same_bytes: bool
    probe: ProbeResult

    @property
    def held(self) -> bool:
        """Whether it came back as it went."""
        return self.same_bytes and self.probe.verdict == "same"


def send_and_fetch(
    adapters: Sequence[Path], *, root: Path, task: str, progress: Progress | None = None
) -> list[RoundTrip]:
    """Push adapters to a Hub in ``root``, pull each back by its commit, and ask it the probe's questions.

    Args:
        adapters: Their folders; the name of each is that of its variant.
        root: The Hub's folder. It is kept: ``hfplug hub serve --root`` serves it.
        task: Name of the task, for the names of the repos.
        progress: Where to show what is happening.

    Returns:
        What came of each, in order.

    Raises:
        MissingExtraError: The extra ``hub`` is not installed.
        HubError, AdapterError: A step failed.
    """
    progress = progress or Progress("nothing")
    token = f"hf_{secrets.token_hex(16)}"  # for as long as this runs; nothing of it is kept
    trips = []
    with running_hub(root, tokens={token: OWNER}) as hub, tempfile.TemporaryDirectory(prefix="hfplug-pull-") as cache:
        bar, advance = progress.counting(len(adapters), "to a Hub on loopback and back")
        with bar:
            for folder in adapters:
                adapter = AdapterDir.open(folder)
                sent = push_adapter(
                    adapter,
                    f"{OWNER}/{BASE_NAME}-{task.replace('_', '-')}-{folder.name.replace('_', '-')}",
                    message=f"{folder.name} of hfplug demo",
                    endpoint=hub.endpoint,
                    token=token,
                )
                # Into a cache of its own, so that it is fetched and not found.
                pulled = pull_adapter(
                    sent.repo_id, revision=sent.commit, endpoint=hub.endpoint, token=token, cache_dir=cache
                ).adapter
                pairs = zip(adapter.weights, pulled.weights, strict=True)
                trips.append(
                    RoundTrip(
                        name=folder.name,
                        repo_id=sent.repo_id,
                        commit=sent.commit,
                        pushed=sent.changed,
                        weight_bytes=adapter.weight_bytes,
                        same_bytes=all(ours.read_bytes() == theirs.read_bytes() for ours, theirs in pairs),
                        probe=verify_adapter(pulled.path, base=base_path()),
                    )
                )
                advance(1)
    return trips


def render_trips(trips: Sequence[RoundTrip], root: Path) -> str:
    """What to print of them: one line each, and how to look at that Hub.

    Args:
        trips: From :func:`send_and_fetch`.
        root: The Hub's folder.
    """
    width = max(len(trip.repo_id) for trip in trips)
    lines = [f"Pushed to a Hub on loopback ({root}), pulled back by commit, and asked the probe's questions:"]
    for trip in trips:
        came = "same bytes" if trip.same_bytes else "OTHER BYTES"
        went = "pushed" if trip.pushed else "there already"
        verdict = {"same": "same answers", "different": "OTHER ANSWERS"}.get(trip.probe.verdict, "OTHER TOKENIZER")
        lines.append(
            f"  {trip.repo_id:<{width}}  {trip.commit[:12]}  {trip.weight_bytes / 1e6:6.2f} MB {went}; {came}; "
            f"{verdict} (largest difference {trip.probe.largest:.2g}, tolerance {trip.probe.tolerance:g})"
        )
    return "\n".join([*lines, f"  To look around in it: hfplug hub serve --root {root}"])
