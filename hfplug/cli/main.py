"""The entry point: ``hfplug COMMAND …``."""

from __future__ import annotations

import logging
import os
import select
import sys
from argparse import SUPPRESS
from collections.abc import Sequence

import hfplug
from hfplug.cli import (
    anatomy,
    compare,
    demo,
    diff,
    doctor,
    export,
    extract,
    hub,
    inspect,
    merge,
    methods,
    outbox,
    plan,
    pull,
    push,
    run,
    space,
    study,
)
from hfplug.cli import list as list_command
from hfplug.cli.parser import Parser, one_line
from hfplug.cli.run_config import with_config
from hfplug.errors import HfplugError

COMMANDS = (
    demo,
    run,
    doctor,
    diff,
    study,
    compare,
    methods,
    anatomy,
    plan,
    inspect,
    push,
    pull,
    list_command,
    merge,
    extract,
    export,
    outbox,
    hub,
    space,
)
# Their script's own messages are left as they are, and so are the words that follow the script.
SCRIPT_COMMANDS = ("run", "doctor")


def make_parser() -> Parser:
    """The parser of all commands. It imports neither torch nor transformers."""
    parser = Parser(
        prog="hfplug",
        description="Parameter-efficient fine-tuning for any Hugging Face Trainer script.",
    )
    parser.add_argument("--version", action="version", version=f"hfplug {hfplug.__version__}")
    parser.add_argument("--debug", action="store_true", help="show stack traces and the libraries' own messages")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        summary = (command.__doc__ or "").strip().splitlines()[0].partition(": ")[2]
        child = commands.add_parser(name, help=summary, description=command.DESCRIPTION)
        # Suppressed, so that it leaves alone what a --debug before the command has set.
        child.add_argument("--debug", action="store_true", default=SUPPRESS, help="show stack traces")
        command.add_arguments(child)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words after ``hfplug``; those of the process if None.

    Returns:
        The exit status: 0, 2 if the user can put it right, 130 if interrupted, 141 if its output was closed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in own_words(words)
    try:
        parser = make_parser()
        parsed = parser.parse_args(with_config(words, own_words(words), parser))
        _set_up_messages("all" if debug or parsed.command in SCRIPT_COMMANDS else "ours")
        command = next(item for item in COMMANDS if item.__name__.endswith(f".{parsed.command}"))
        status = command.run(parsed)
        sys.stdout.flush()
        return status
    except HfplugError as error:
        if debug:
            raise
        print(f"hfplug: {one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            return 141  # as a shell says it of a program that SIGPIPE ended
        if debug:
            raise
        print(f"hfplug: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nhfplug: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _output_is_closed() -> bool:
    """Whether whoever read the output has seen enough, as in ``hfplug methods | head``."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at exit
    return True


class _ErrorStream(logging.StreamHandler):
    """Writes to whatever is the error stream at that moment: it may have been exchanged, or closed, since the start."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def own_words(words: Sequence[str]) -> list[str]:
    """The words that are for hfplug: where a script is run, those before it.

    Args:
        words: All words after ``hfplug``.
    """
    has_script = any(word in SCRIPT_COMMANDS for word in words)
    end = next((at for at, word in enumerate(words) if word == "--" or word.endswith(".py")), len(words))
    return list(words[:end]) if has_script else list(words)


def _set_up_messages(whose: str) -> None:
    """Our own messages on the error stream; those of the libraries too if ``whose`` is ``"all"``."""
    ours = logging.getLogger("hfplug")
    if not ours.handlers:
        handler = _ErrorStream()
        handler.setFormatter(logging.Formatter("hfplug: %(message)s"))
        ours.addHandler(handler)
        ours.propagate = False
    if whose == "all":
        return
    import warnings

    warnings.filterwarnings("ignore")
    # Read by the libraries when they are first imported, which is later, inside the command.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("bitsandbytes", "torch", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quieten_transformers() -> None:
    """Hide the bars that transformers draws for each file that it reads or writes."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
