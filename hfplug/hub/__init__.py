"""The only code that talks to a Hub, and a Hub on loopback to talk to (``hfplug.hub.server``)."""
