"""hfplug space: a page that shows a base and its adapters side by side: on this machine, or as a Space on a Hub."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.cli.parser import Parser, UsageError, add_flag, one_line

if TYPE_CHECKING:
    from hfplug.space.config import SpaceConfig
    from hfplug.space.deploy import Deployed
    from hfplug.space.space_change import Change

DESCRIPTION = """\
Show a base and every adapter of it side by side, in a browser. Without a word more it runs offline, on the built-in
base, with the adapters that `hfplug demo` left in this folder.

  hfplug space serve
  hfplug space serve --base google/flan-t5-base --variant lora=me/my-lora@v1 --variant mine=out/adapters/lora
  hfplug space deploy me/compare --base google/flan-t5-base --variant lora=me/my-lora --dry-run
  hfplug space deploy me/compare --base google/flan-t5-base --variant lora=me/my-lora --secret HF_TOKEN"""

DEFAULT_PORT = 7860
_PORTS = 100
_SHOWN_FILES = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    serve = actions.add_parser("serve", help="show it on this machine until interrupted")
    add_flag(serve, "port", type=int, help=f"0 for a free one (default: the first free one from {DEFAULT_PORT})")
    add_flag(serve, "host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    deploy = actions.add_parser("deploy", help="create a Space on a Hub, or bring it up to date, in one commit")
    deploy.add_argument("repo", metavar="OWNER/NAME", help="the Space")
    for action in (serve, deploy):
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show stack traces")
        _add_settings(action)
    add_flag(deploy, "private", action="store_true", help="only for you, if the Space has to be made")
    add_flag(deploy, "hardware", help="cpu-basic, zero-a10g, t4-small, … (default: as it is)")
    add_flag(
        deploy,
        "secret",
        action="append",
        metavar="NAME",
        help="a secret of the Space; its value is taken from the environment variable NAME; may be repeated",
    )
    add_flag(deploy, "variable", action="append", metavar="NAME=VALUE", help="a public variable; may be repeated")
    add_flag(
        deploy,
        "hfplug_requirement",
        metavar="LINE",
        help="how the Space installs hfplug, e.g. hfplug==0.1.0 (default: its sources go along)",
    )
    add_flag(
        deploy,
        "edited",
        choices=("refuse", "keep", "replace"),
        default="refuse",
        help="what becomes of files of ours that somebody changed in the Space (default: refuse)",
    )
    add_flag(deploy, "message", default="Deploy with hfplug", help="first line of the commit")
    add_flag(deploy, "dry_run", action="store_true", help="show the files and what would change, and change nothing")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    add_flag(parser, "config", type=Path, help="space.json; flags go before it (default: the one in this folder)")
    add_flag(parser, "base", help="repo id or folder of the base (default: the built-in one)")
    add_flag(parser, "revision", help="branch, tag or commit of the base")
    add_flag(
        parser,
        "variant",
        action="append",
        metavar="NAME=SOURCE",
        help="a column: NAME=OWNER/NAME[@REVISION], or for serve NAME=DIR; may be repeated (without NAME= it is called "
        "as the repo or the folder is)",
    )
    add_flag(parser, "report", metavar="DIR", help="a study's folder, for the tabs with its table and numbers")
    add_flag(parser, "examples", metavar="FILE", help="JSON or JSON lines with dialogues to pick")
    add_flag(parser, "title", help="heading of the page")
    add_flag(parser, "allowed_owners", metavar="NAMES", help="whose adapters visitors may add, comma-separated")
    add_flag(parser, "add_adapters", choices=("on", "off"), help="whether visitors may add adapters (default: on)")
    add_flag(parser, "votes", metavar="WHERE", help="off, a .jsonl file, or a dataset repo (default: off)")


def run(parsed: argparse.Namespace) -> int:
    """Do what was asked for."""
    return {"serve": _serve, "deploy": _deploy}[parsed.action](parsed)


def config_from(parsed: argparse.Namespace) -> SpaceConfig:
    """The settings that the file, the environment and the flags ask for; flags go before the rest.

    Raises:
        SpaceError: One of them is not right.
    """
    from hfplug.space.config import checked, from_mapping, parse_variant, read_config

    config = read_config(parsed.config)
    folder = Path.cwd()
    names = ("base", "revision", "report", "examples", "title", "add_adapters", "votes")
    values: dict[str, Any] = {name: getattr(parsed, name) for name in names if getattr(parsed, name) is not None}
    if parsed.allowed_owners is not None:
        values["allowed_owners"] = [name for name in parsed.allowed_owners.replace(",", " ").split() if name]
    given = from_mapping(values, folder=folder, where="the flags")
    changes: dict[str, Any] = {name: getattr(given, name) for name in values}
    for name in ("base", "report", "examples", "votes"):
        # A path is meant as seen from here, not from the folder of the settings.
        text = changes.get(name)
        if text and (Path(text).expanduser().exists() or text.endswith(".jsonl")):
            changes[name] = str((folder / Path(text).expanduser()).absolute())
    if parsed.variant is not None:
        changes["variants"] = tuple(
            dataclasses.replace(item, source=str((folder / Path(item.source).expanduser()).absolute()))
            if Path(item.source).expanduser().is_dir()
            else item
            for item in map(parse_variant, parsed.variant)
        )
    elif "base" in changes and changes["base"] != config.base:
        changes.setdefault("variants", ())  # those of the settings are for another base
    if "base" in changes or "variants" in changes:
        changes.setdefault("report", None if config.shows_demo else config.report)
    return checked(dataclasses.replace(config, **changes))


# -------------------------------------------------------------------------------------------------- serve


def _serve(parsed: argparse.Namespace) -> int:
    import signal
    import threading

    # Read by gradio and huggingface_hub when they are first imported: a page on this machine tells nobody.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from hfplug.space.app_files import load_app

    config = config_from(parsed)
    port = _free_port(parsed.host, parsed.port)
    module = load_app()
    from hfplug.cli.main import quieten_transformers

    quieten_transformers()
    what = f"the base and {len(config.variants)} variants" if config.variants else "the base"
    print(f"hfplug: loading {what}; each is tried out first", file=sys.stderr, flush=True)
    app = module.create_app(config)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    module.launch(app, server_name=parsed.host, server_port=port, share=False, prevent_thread_lock=True, quiet=True)
    where = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    print(f"{config.title}: http://{where}:{port}", flush=True)
    _warn_of(parsed.host)
    print("Stop it with Ctrl-C.", flush=True)
    try:
        while not stop.wait(0.5):
            pass
    except KeyboardInterrupt:
        print()
    app.close(verbose=False)
    print("Stopped.", flush=True)
    return 0


def _warn_of(host: str) -> None:
    if host not in ("127.0.0.1", "localhost", "::1"):
        print(
            f"hfplug: warning: listening on {host}, so other machines can reach this page, over plain HTTP.",
            file=sys.stderr,
        )


def _free_port(host: str, wanted: int | None) -> int:
    """A port that can be listened on: the wanted one, or the first free one.

    Raises:
        UsageError: It is taken, or the address is none of this machine.
    """
    import errno
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS) if wanted is None else (wanted,)
    for port in ports:
        try:
            with socket.create_server((host, port), family=family) as listener:
                return int(listener.getsockname()[1])
        except (OSError, OverflowError) as error:
            if wanted is None and getattr(error, "errno", None) == errno.EADDRINUSE:
                continue
            why = str(getattr(error, "strerror", None) or error).rstrip(".")
            raise UsageError(
                f"Cannot listen on {host} port {port}: {why}.", fix="Pass another --port, or --port 0 for a free one."
            ) from None
    raise UsageError(f"All ports from {ports[0]} to {ports[-1]} are taken.", fix="Pass --port 0 for a free one.")


# ------------------------------------------------------------------------------------------------- deploy


def _deploy(parsed: argparse.Namespace) -> int:
    from hfplug.space.deploy import deploy, preview_deploy
    from hfplug.space.space_files import space_files

    config = config_from(parsed)
    secrets, variables = _secrets(parsed.secret or ()), _variables(parsed.variable or ())
    files = space_files(config, hfplug_requirement=parsed.hfplug_requirement, hardware=parsed.hardware)
    if parsed.dry_run:
        print(_show_change(preview_deploy(files, parsed.repo, edited=parsed.edited, endpoint=config.endpoint)))
        for wish in _wishes(parsed, variables):
            print(wish)
        return 0
    done = deploy(
        files,
        parsed.repo,
        private="on" if parsed.private else None,
        hardware=parsed.hardware,
        secrets=secrets,
        variables=variables,
        edited=parsed.edited,
        message=parsed.message,
        endpoint=config.endpoint,
    )
    print(_show_deployed(done))
    return 0


def _secrets(names: Any) -> dict[str, str]:
    """Values from the environment; never from the command line, which other users of the machine can read."""
    found = {}
    for name in names:
        if "=" in name:
            raise UsageError(
                "--secret takes the name alone; its value is read from the environment variable of that name.",
                fix=f"Type: export {name.partition('=')[0]}=… and then --secret {name.partition('=')[0]}",
            )
        value = os.environ.get(name)
        if not value:
            raise UsageError(f"There is no environment variable {name!r} for --secret.", fix=f"Type: export {name}=…")
        found[name] = value
    return found


def _variables(items: Any) -> dict[str, str]:
    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--variable takes NAME=VALUE, not {item!r}.", fix="For example --variable MODE=demo")
        found[name] = value
    return found


def _wishes(parsed: argparse.Namespace, variables: dict[str, str]) -> list[str]:
    """What else a deployment with these flags would do, for a dry run; a secret by its name."""
    lines = [f"Secret {name} would be set, from the environment." for name in parsed.secret or ()]
    lines += [f"Variable {name} would be set." for name in variables]
    lines += [f"Hardware {parsed.hardware} would be asked for."] if parsed.hardware else []
    return lines + (["The Space would be private, if it has to be made."] if parsed.private else [])


def _show_change(change: Change) -> str:
    states = {"there": "", "new": ", which would be made", "unknown": ""}
    lines = [f"{change.repo_id}{states[change.repo]}:"]
    rows = [("add", name, len(content)) for name, content in change.add.items()]
    own = [row for row in rows if not row[1].startswith("hfplug/")]
    rest = [row for row in rows if row[1].startswith("hfplug/")]
    lines += [f"  {what:6} {size:>14,} bytes  {name}" for what, name, size in own]
    if rest:
        total = sum(size for _, _, size in rest)
        lines.append(f"  {'add':6} {total:>14,} bytes  hfplug/ ({len(rest)} files: the package itself)")
    lines += [f"  delete {'':>14}        {name}" for name in change.delete]
    lines += [f"  same   {'':>14}        {len(change.same)} files"] if change.same else []
    for name in ("README.md", "space.json", "requirements.txt"):
        if name in change.add:
            lines += ["", f"{name}:", *(f"  {line}" for line in change.add[name].decode().splitlines())]
    count = len(change.add) + len(change.delete)
    lines += ["", f"{count} files would change, in one commit." if count else "Nothing would change."]
    return "\n".join([*lines, *_notes(change.notes)])


def _show_deployed(done: Deployed) -> str:
    what = "Deployed" if done.changed else "Nothing to deploy, it is all there:"
    lines = [f"{what} {done.repo_id} at {done.commit[:12]}  {done.url}"]
    lines += [f"  set: {', '.join(done.settings)}"] if done.settings else []
    return "\n".join([*lines, *_notes(done.notes)])


def _notes(notes: tuple[str, ...]) -> list[str]:
    return [f"  note: {one_line(note)}" for note in notes]
