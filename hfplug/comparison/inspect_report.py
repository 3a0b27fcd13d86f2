"""A page a trained variant beside the report: what its adapter holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from hfplug.adapters.atomic import write_bytes
from hfplug.adapters.inspect import inspect_adapter
from hfplug.comparison.inputs import public_name
from hfplug.comparison.inspect_page import render_inspection_page
from hfplug.comparison.progress import Progress
from hfplug.errors import HfplugError
from hfplug.models.base import Base

FOLDER = "inside"


def write_inside(
    out: Path, base: Base, adapters: Mapping[str, Path], progress: Progress, *, report: str
) -> dict[str, str]:
    """Look into every adapter and write what was seen; one that cannot be looked into does not stop a study.

    Args:
        out: Folder of the report.
        base: Of all adapters.
        adapters: Name of each variant to its folder.
        progress: Where to say what could not be looked into.
        report: File name of the report's page, to be linked back to.

    Returns:
        Name of each variant to the address of its page, as seen from the report.
    """
    found = {}
    for name, folder in adapters.items():
        try:
            seen = inspect_adapter(
                folder, base=base.name, revision=base.commit, trust_remote_code=base.trust_remote_code
            )
        except HfplugError as error:
            progress.say(f"{name}: could not be looked into: {error}")
            continue
        # No folder of this machine: the report goes to others.
        shown = dataclasses.replace(seen, name=name, path=Path(name), base=public_name(base.name))
        page = render_inspection_page(shown, back=f"../{report}")
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        write_bytes(out / FOLDER / f"{name}.html", page.encode("utf-8", errors="backslashreplace"))
        found[name] = f"{FOLDER}/{name}.html"
    return found
