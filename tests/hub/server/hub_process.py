"""A Hub in a process of its own, which can be killed and measured."""

from __future__ import annotations

import subprocess
import sys

SERVE = """
import sys, time
from pathlib import Path
from hfplug.hub.server import running_hub
with running_hub(Path(sys.argv[1]), tokens={"hf_test": "alice"}) as hub:
    print(hub.endpoint, flush=True)
    time.sleep(600)
"""


def start(root):
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(root)], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()
