"""A Hub on loopback: one process, one folder, the unmodified huggingface_hub client.

For tests, demos and teams without a network. It keeps repos (private ones really private), their history,
branches, tags and pull requests, collections, and large files, and answers as the client expects.

It is one process on one folder: no second one can serve the same folder, and there are no groups, no quotas,
no web pages and no backup. A large team needs more than that.
"""
