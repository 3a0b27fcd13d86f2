"""Whether an adapter carries its tokenizer is decided on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading

from transformers import AutoTokenizer

from hfplug.adapters.tokenizers import is_the_bases_tokenizer
from hfplug.demo.base import base_path

ASK = """
import sys
from transformers import AutoTokenizer
from hfplug.adapters.tokenizers import is_the_bases_tokenizer
print(is_the_bases_tokenizer(AutoTokenizer.from_pretrained(sys.argv[1]), "owner/base", None))
"""


def test_the_tokenizer_beside_the_base_need_not_be_carried_and_another_must():
    tokenizer = AutoTokenizer.from_pretrained(base_path())
    assert is_the_bases_tokenizer(tokenizer, str(base_path()), None)
    tokenizer.add_tokens(["<new>"])
    assert not is_the_bases_tokenizer(tokenizer, str(base_path()), None)


def test_a_hub_that_does_not_answer_is_not_asked(tmp_path):
    asked: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=lambda: asked.append(listener.accept()), daemon=True).start()
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",  # of the client's own, with a limit of three seconds
            "NO_PROXY": "127.0.0.1",
        }
        command = [sys.executable, "-c", ASK, str(base_path())]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (run.stdout, asked) == ("False\n", []), run.stderr
