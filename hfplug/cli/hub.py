"""hfplug hub: a Hub on loopback: serve a folder, make tokens, carry a repo across an air gap."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from hfplug.cli.parser import Parser, UsageError, add_flag
from hfplug.errors import HfplugError

DESCRIPTION = """\
Serve a folder as a Hub to the unmodified huggingface_hub client: for tests, demos and teams without a network.
It is one process, listens on this machine alone unless told otherwise, and wants a token for every write.

  hfplug hub serve --root my-hub
  hfplug hub token --root my-hub --user bob
  hfplug hub token --root my-hub --revoke bob
  hfplug hub export alice/adapter adapter-folder --root my-hub
  hfplug hub import adapter-folder alice/adapter --root other-hub"""

_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
_TOKEN_VARIABLE = "HFPLUG_HUB_TOKEN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this command."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    serve = actions.add_parser("serve", help="serve a folder until interrupted")
    add_flag(serve, "port", type=int, default=8787, help="0 for a free one (default: 8787)")
    add_flag(serve, "host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    token = actions.add_parser("token", help="make a token for another user, print it once; or --revoke")
    export = actions.add_parser("export", help="write a repo with its history into a folder")
    export.add_argument("repo", metavar="REPO", help="owner/name")
    export.add_argument("folder", metavar="DIR", type=Path, help="a new folder")
    load = actions.add_parser("import", help="make a repo of an exported folder")
    load.add_argument("folder", metavar="DIR", type=Path, help="the exported folder")
    load.add_argument("repo", metavar="REPO", help="owner/name that it gets here")
    add_flag(load, "visibility", choices=("private", "public"), default="private", help="(default: private)")
    add_flag(token, "revoke", default=None, metavar="USER", help="let this user's tokens in no more; make none")
    for action in (serve, token, export, load):
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show stack traces")
        add_flag(action, "root", type=Path, default=Path("hfplug-hub"), help="the Hub's folder (default: hfplug-hub)")
    for action in (serve, token):
        add_flag(action, "user", default=None, help="whose token it is (default: your name on this machine)")
        add_flag(action, "token_file", type=Path, default=None, help="read the token from a file, do not make one")
    for action in (export, load):
        add_flag(action, "type", choices=("model", "dataset", "space"), default=None, help="of the repo")


def run(parsed: argparse.Namespace) -> int:
    """Do what was asked for."""
    actions = {"serve": _serve, "token": _make_token, "export": _export, "import": _import}
    return actions[parsed.action](parsed)


def _serve(parsed: argparse.Namespace) -> int:
    from hfplug.hub.server.running import address_of, listening, require_packages, serve

    require_packages()
    from hfplug.hub.server.access import read_tokens
    from hfplug.hub.server.root import claim

    given = _given_token(parsed)
    with listening(parsed.host, parsed.port) as listener:
        claim(parsed.root)
        users = {entry["user"] for entry in read_tokens(parsed.root)}
        made = None
        if given or (parsed.user not in users if parsed.user else not users):
            made = _add_token(parsed, given)
        address = address_of(listener)
        if not _LOOPBACK.fullmatch(parsed.host):
            print(
                f"hfplug: warning: listening on {parsed.host}, so other machines can reach this Hub, and it speaks"
                " plain HTTP: tokens and files can be read on the way. Put a TLS proxy in front, or use 127.0.0.1.",
                file=sys.stderr,
            )
        names = ", ".join(sorted({entry["user"] for entry in read_tokens(parsed.root)}))

        def say_where() -> None:
            print(f"Serving {parsed.root} at {address} (users: {names}). One process; stop it with Ctrl-C.")
            print(f"In another terminal:  {_exports(address, made)}", flush=True)

        try:
            serve(parsed.root, listener, on_start=say_where)
        except KeyboardInterrupt:
            print("Stopped. What was answered is on the disk.")
    return 0


def _exports(address: str, token: str | None) -> str:
    """A line that can be copied into a shell as it is; where no token was made here, it asks for one."""
    if token is not None:
        return f"export HF_ENDPOINT={address} HF_TOKEN={token}"
    return f"export HF_ENDPOINT={address}; echo 'Your token:'; read -r HF_TOKEN; export HF_TOKEN"


def _make_token(parsed: argparse.Namespace) -> int:
    if parsed.revoke is not None:
        if parsed.user is not None or parsed.token_file is not None:
            raise UsageError("--revoke takes tokens away and makes none.", fix="Leave out --user and --token-file.")
        from hfplug.hub.server.access import revoke_tokens

        count = revoke_tokens(parsed.root, parsed.revoke)
        print(f"Tokens of {parsed.revoke} that let nobody in from now on: {count}. What was pushed with them stays.")
        return 0
    _add_token(parsed, _given_token(parsed))
    print("It is good from now on, also for a Hub that is running.")
    return 0


def _given_token(parsed: argparse.Namespace) -> str | None:
    """The token that the user brings, from a file or the environment; never from the command line, which is public."""
    if parsed.token_file is not None:
        token = parsed.token_file.read_bytes().decode("utf-8", "replace").strip()
        source = str(parsed.token_file)
    else:
        token, source = os.environ.get(_TOKEN_VARIABLE, "").strip(), _TOKEN_VARIABLE
        if not token:
            return None
    if not re.fullmatch(r"[\x21-\x7e]{8,200}", token):
        raise UsageError(f"{source} must hold one token of 8 to 200 letters without spaces.", fix="Leave it out.")
    return token


def _add_token(parsed: argparse.Namespace, given: str | None) -> str | None:
    """Store the given token, or make one; returns the one that was made."""
    from hfplug.hub.server.access import make_token, store_token
    from hfplug.hub.server.routing import Refusal

    token, user = given or make_token(), parsed.user or _own_name()
    try:
        store_token(parsed.root, token, user, origin="chosen" if given else "made")
    except Refusal as refusal:
        raise HfplugError(f"{refusal.message}.", fix="Pass --user NAME.") from None
    if given is not None:
        return None
    print(f"The token of {user}, shown this once (the folder holds only its hash):  {token}")
    return token


def _own_name() -> str:
    import getpass

    try:
        name = re.sub(r"[^A-Za-z0-9]+", "-", getpass.getuser()).strip("-")
    except (OSError, KeyError, ImportError):
        name = ""
    return name or "me"


def _export(parsed: argparse.Namespace) -> int:
    from hfplug.hub.server.carry import export_repo

    carried = export_repo(parsed.root, parsed.repo, parsed.folder, type=parsed.type or "model")
    print(f"{carried.type} {carried.id} is in {parsed.folder}: {_amount(carried)}")
    print(f"On the other side:  hfplug hub import {parsed.folder.name} {carried.id} --root DIR")
    return 0


def _import(parsed: argparse.Namespace) -> int:
    from hfplug.hub.server.carry import import_repo

    carried = import_repo(parsed.root, parsed.folder, parsed.repo, visibility=parsed.visibility, type=parsed.type)
    print(f"{carried.type} {carried.id} ({parsed.visibility}) is in the Hub at {parsed.root}: {_amount(carried)}")
    return 0


def _amount(carried: object) -> str:
    return "{commits} commits, {contents} contents, {bytes} bytes, head {head}".format(**vars(carried))
