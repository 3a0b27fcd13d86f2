"""One Hub collection for each base, with the adapters made for it."""

from __future__ import annotations

import hashlib

from hfplug.errors import HubError
from hfplug.hub.client import HubClient, translated
from hfplug.hub.retry import retrying

_LONGEST_TITLE = 60  # characters, the Hub's own limit
_TRIES = 3


def collection_title(base: str) -> str:
    """The title of the collection for a base, by which it is found again."""
    title = f"hfplug adapters of {base}"
    if len(title) <= _LONGEST_TITLE:
        return title
    # Two bases that differ where it is cut must not share one.
    return f"{title[: _LONGEST_TITLE - 10]}… {hashlib.sha256(base.encode()).hexdigest()[:8]}"


def keep_in_collection(client: HubClient, repo_id: str, base: str | None, *, private: str | None = None) -> str:
    """Put a repo into its owner's collection for its base; both may have been done before.

    Args:
        client: For the Hub.
        repo_id: The adapter.
        base: Id of its base.
        private: ``"on"`` for a private collection, if it has to be made.

    Returns:
        A sentence that says what came of it. Not every Hub has collections, and the adapter has been pushed by
        now: so this never raises a ``HubError``.
    """
    if base is None:
        return "No collection is kept, for the card names no base on the Hub."
    title = collection_title(base)

    def keep() -> str:
        with translated("keep a collection", client=client):
            slug = _find_or_make(client, repo_id.partition("/")[0], title, private)
            client.call(client.api.add_collection_item, slug, repo_id, "model", exists_ok=True)
        return slug

    try:
        slug = retrying(keep, tries=_TRIES)
    except HubError as error:
        return f"No collection is kept: {error}"
    return f"In the collection {client.endpoint}/collections/{slug}"


def _find_or_make(client: HubClient, owner: str, title: str, private: str | None) -> str:
    for collection in client.call(client.api.list_collections, owner=owner):
        if collection.title == title:
            return collection.slug
    made = client.call(client.api.create_collection, title, namespace=owner, private=private == "on", exists_ok=True)
    return made.slug
