"""A Hub on loopback: one process, one folder, the unmodified huggingface_hub client.

For tests, demos and teams without a network. It keeps repos (private ones really private), their history,
branches, tags and pull requests, collections, and large files, and answers as the client expects.

It is one process on one folder: no second one can serve the same folder, and there are no groups, no quotas,
no web pages and no backup. A large team needs more than that: an organisation on huggingface.co, or a server of
its own with a database and object storage behind it, such as KohakuHub.
"""

from hfplug.hub.server.running import RunningHub, running_hub

__all__ = ["RunningHub", "create_app", "running_hub"]


def __getattr__(name: str) -> object:
    # Starlette is an extra: only who asks for the application needs it.
    if name == "create_app":
        from hfplug.hub.server.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
