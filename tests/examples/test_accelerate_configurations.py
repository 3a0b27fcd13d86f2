"""The shipped configurations for several processes are ones that accelerate reads, and say whether they were run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser

from hfplug.cli.main import make_parser
from hfplug.cli.run import method_from

FILES = sorted((Path(__file__).parents[2] / "examples" / "accelerate").glob("*.yaml"))


def command(file):
    """The command in a file's first lines, as words."""
    comment = [line.removeprefix("#").strip() for line in file.read_text().splitlines() if line.startswith("#")]
    text = re.search(r"accelerate launch .*?…", " ".join(comment))[0]
    return [word for word in text.split() if word not in ("…", "\\")]


def test_there_are_some():
    assert {"two_cpu_processes", "lora_fsdp2", "qlora_fsdp", "lora_zero2", "lora_zero3"} <= {one.stem for one in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_reads_it_and_knows_every_setting(file):
    config = ClusterConfig.from_yaml_file(str(file))
    assert config.num_processes > 1
    flags = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) | set(config.deepspeed_config) <= flags
    assert ("NOT RUN" in file.read_text()) == (not config.use_cpu)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_command_in_it_can_be_typed(file):
    words = command(file)
    assert words[:3] == ["accelerate", "launch", "--config_file"] and Path(words[3]).name == file.name
    ours = words[words.index("hfplug") + 1 :]
    parsed = make_parser().parse_args(ours)
    method = method_from(parsed)
    assert parsed.script[0] == "script.py"
    recipe = method.quantization()
    if ClusterConfig.from_yaml_file(str(file)).fsdp_config and recipe is not None:
        assert recipe.storage_dtype == recipe.compute_dtype == "bfloat16"
