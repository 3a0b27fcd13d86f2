"""hfplug run: run an unmodified Trainer script with a tuning method."""

from __future__ import annotations

import argparse
import logging
import os
from typing import TYPE_CHECKING, Any, TextIO

from hfplug.cli.method_flags import add_method_flags, methods_from
from hfplug.cli.parser import UsageError, add_flag
from hfplug.cli.run_config import CONFIG_HELP
from hfplug.methods import method_names

if TYPE_CHECKING:
    from hfplug.methods import TuningMethod
    from hfplug.training.plug_trainer import Plan

DESCRIPTION = """\
Run a Trainer script of anybody's with a tuning method on the model that it trains. Nothing in the script changes.
What follows the script is its own.

  hfplug run --method lora script.py --its --own --flags
  hfplug run --method prompt_tuning --learning_rate auto -- script.py settings.json
  hfplug run --config settings.yaml script.py --its --own --flags
  accelerate launch -m hfplug run --method lora script.py --its --own --flags
  torchrun --nproc-per-node 2 -m hfplug run --method lora script.py --its --own --flags

The adapter is in OUTPUT_DIR/adapter afterwards, OUTPUT_DIR being the script's."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    add_run_flags(parser)
    add_flag(parser, "no_preflight", action="store_true", help="do not look for trouble before the first step")
    add_script(parser)


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is done to the script's Trainer."""
    add_flag(parser, "config", metavar="FILE", help=CONFIG_HELP)
    add_flag(parser, "method", default="lora", help=f"one of: {', '.join(method_names())} (default: lora)")
    add_flag(
        parser,
        "learning_rate",
        default="script",
        choices=("script", "auto"),
        help="auto: the one advised for the method, instead of the script's",
    )
    add_flag(parser, "adapter_out", metavar="FOLDER", help="folder of the adapter (default: OUTPUT_DIR/adapter)")
    hub = parser.add_argument_group("pushing to a Hub while training")
    add_flag(hub, "push_to", metavar="OWNER/NAME", help="repo to push to; the script's hub_model_id if it pushes")
    add_flag(hub, "push_when", choices=("save", "best", "end"), help="each checkpoint, the best ones, or the last")
    add_flag(hub, "private", choices=("on", "off"), help="for a repo that has to be made")
    add_flag(hub, "revision", help="branch to push to")
    add_flag(hub, "endpoint", metavar="URL", help="address of the Hub")
    add_method_flags(parser)


def add_script(parser: argparse.ArgumentParser) -> None:
    """Add the script and whatever follows it."""
    parser.add_argument("script", nargs=argparse.REMAINDER, metavar="[--] script.py …", help="the script and its flags")


def run(parsed: argparse.Namespace) -> int:
    """Run the script; its exit status is ours."""
    script, arguments = split_script(parsed)
    method = method_from(parsed)
    preflight = None if parsed.no_preflight else "warn"
    return launch(parsed, script, arguments, method, preflight=preflight)


def launch(
    parsed: argparse.Namespace,
    script: str,
    arguments: list[str],
    method: TuningMethod,
    *,
    preflight: str | None,
    out: TextIO | None = None,
) -> int:
    """Run a script with the method on its model.

    Args:
        parsed: The flags.
        script: Path of the script.
        arguments: Its own arguments.
        method: The method.
        preflight: ``"warn"`` checks before the first step; ``"only"`` checks, and trains nothing; None for neither.
        out: Where the findings are printed; None for the standard output.
    """
    from hfplug.training.launch import run_script
    from hfplug.training.launch_patches import patches_for

    only_the_first_process_speaks()
    callbacks = callback_settings(parsed)

    def make_plan() -> Plan:
        from hfplug.training.plug_trainer import Plan

        before: Any = None
        if preflight is not None:
            from hfplug.training.preflight import Preflight

            before = Preflight(mode=preflight, as_json="on" if getattr(parsed, "json", False) else "off", out=out)
        return Plan(method=method, learning_rate=parsed.learning_rate, callbacks=callbacks, before_training=before)

    patches = patches_for(make_plan, method)
    if preflight == "only":
        from hfplug.training.only_look import patches_against_steps

        patches |= patches_against_steps()
    return run_script(script, arguments, patches=patches)


def split_script(parsed: argparse.Namespace) -> tuple[str, list[str]]:
    """The script, and what follows it.

    Raises:
        UsageError: There is no script.
    """
    words = list(parsed.script)
    if words and words[0] == "--":
        words = words[1:]
    if not words or words[0].startswith("-"):
        wrong = f" before {words[0]!r}, which is no flag of hfplug {parsed.command}" if words else ""
        raise UsageError(
            f"hfplug {parsed.command} needs a script{wrong}.",
            fix=f"Type: hfplug {parsed.command} --method lora script.py --its --own --flags",
        )
    return words[0], words[1:]


def method_from(parsed: argparse.Namespace) -> TuningMethod:
    """The method that the flags ask for."""
    return methods_from([parsed.method], parsed)[0]


def callback_settings(parsed: argparse.Namespace) -> dict[str, Any]:
    """Keywords for ``adapter_callbacks``; what was not given is left out."""
    names = {"adapter_out": "output", "push_to": "push_to", "push_when": "push_when", "private": "private"}
    names |= {"revision": "revision", "endpoint": "endpoint"}
    return {key: getattr(parsed, flag) for flag, key in names.items() if getattr(parsed, flag) is not None}


def only_the_first_process_speaks() -> None:
    """Keep the messages of hfplug to one of several processes; those of the script are its own affair."""
    logging.getLogger("hfplug").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
