"""A Hub that runs: in a thread of this process, or in the foreground until it is interrupted."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfplug.errors import HubError, MissingExtraError

if TYPE_CHECKING:
    import uvicorn

_START_SECONDS = 30.0
_STOP_SECONDS = 5.0
# Longer than any client keeps one: a connection that the server closes first can be closed just when a call is
# sent on it, and most of the client's calls are not tried again.
_KEEP_CONNECTIONS_SECONDS = 120


@dataclass(frozen=True)
class RunningHub:
    """A Hub that answers.

    Attributes:
        endpoint: Its address, for ``HfApi(endpoint=…)`` or ``HF_ENDPOINT``.
        root: Its folder.
    """

    endpoint: str
    root: Path


@contextlib.contextmanager
def running_hub(
    root: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tokens: Mapping[str, str] | None = None,
    wrap: Callable[[Any], Any] | None = None,
    **options: Any,
) -> Iterator[RunningHub]:
    """Run a Hub in a thread for as long as the ``with`` block lasts.

        with running_hub(folder, tokens={"hf_…": "alice"}) as hub:
            HfApi(endpoint=hub.endpoint, token="hf_…").create_repo("alice/adapter")

    Args:
        root: Its folder.
        host: Address to listen on. port: Its port, or 0 for a free one.
        tokens: Tokens and their users, beside those stored in the folder.
        wrap: Given the ASGI application, returns the one to run.
        **options: More of ``create_app``.

    Yields:
        Where it is.

    Raises:
        MissingExtraError: A package of the extra ``hub`` is not installed.
        HubError: The address is taken.
        HubConflictError: Another process holds the folder.
    """
    require_packages()
    from hfplug.hub.server.app import create_app

    _refuse_if_held(Path(root))
    app: Any = create_app(Path(root), tokens=tokens, **options)
    with listening(host, port) as listener:
        server = _make_server(wrap(app) if wrap else app)
        failure: list[BaseException] = []
        thread = threading.Thread(target=_run, args=(server, listener, failure), name="hfplug-hub-server", daemon=True)
        thread.start()
        try:
            _wait_for_start(server, thread, failure)
            yield RunningHub(endpoint=address_of(listener), root=Path(root))
        finally:
            server.should_exit = True
            thread.join(_STOP_SECONDS)
            if thread.is_alive():
                server.force_exit = True
                thread.join(_STOP_SECONDS)


def serve(
    root: Path,
    listener: socket.socket,
    *,
    tokens: Mapping[str, str] | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Run a Hub in the foreground until the process is interrupted.

    Args:
        root: Its folder. listener: From ``listening``. tokens: As for ``running_hub``.
        on_start: Called once it answers.

    Raises:
        MissingExtraError: A package of the extra ``hub`` is not installed.
        HubConflictError: Another process holds the folder.
        HubError: It did not start.
    """
    require_packages()
    from hfplug.hub.server.app import create_app

    _refuse_if_held(Path(root))
    server = _make_server(create_app(Path(root), tokens=tokens), on_start)
    try:
        server.run(sockets=[listener])
    except SystemExit:  # uvicorn's way to say that the application did not start
        raise HubError(f"the Hub in {root} did not start.", fix="The lines above say why.") from None


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens on an address.

    Raises:
        HubError: The address is taken, or is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        why = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise HubError(
            f"a Hub cannot listen on {host} port {port}: {why}.",
            fix="Pass another port, or 0 for a free one.",
        ) from error
    with listener:
        # Connections inherit it. asyncio does the same only for a socket that says IPPROTO_TCP, which this one does
        # not; without it each answer waits 40 ms for the other side's delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener


def address_of(listener: socket.socket) -> str:
    """The endpoint that a listening socket stands for."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def require_packages() -> None:
    """Say what to install if the extra ``hub`` is not there.

    Raises:
        MissingExtraError: A package of it is missing.
    """
    for package in ("starlette", "uvicorn", "blake3", "lz4"):
        try:
            __import__(package)
        except ImportError:
            raise MissingExtraError(package, extra="hub", needed_for="a Hub on loopback") from None


def _refuse_if_held(root: Path) -> None:
    from hfplug.hub.server.shelf import sole_writer

    with sole_writer(root):
        pass  # the application holds it itself; asked first, the answer comes in words and not from inside uvicorn


def _make_server(app: Any, on_start: Callable[[], None] = lambda: None) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                on_start()

    # No access log: it would hold the tickets that stand in addresses.
    config = uvicorn.Config(
        # No configuration of logging: uvicorn's own closes the handlers that the rest of the process has.
        app, log_level="error", log_config=None, access_log=False, lifespan="on",
        timeout_graceful_shutdown=1, timeout_keep_alive=_KEEP_CONNECTIONS_SECONDS,
    )  # fmt: skip
    return Server(config)


def _run(server: uvicorn.Server, listener: socket.socket, failure: list[BaseException]) -> None:
    try:
        server.run(sockets=[listener])
    except BaseException as error:  # handed over to the thread that waits for the start
        failure.append(error)


def _wait_for_start(server: uvicorn.Server, thread: threading.Thread, failure: list[BaseException]) -> None:
    end = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > end:
            raise HubError("the Hub did not start.", fix="Its log says why.") from next(iter(failure), None)
        time.sleep(0.005)
