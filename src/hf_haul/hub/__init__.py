"""All that speaks huggingface_hub: listings, metadata, snapshot_download, hf_hub_download, accelerate.

``repository`` asks the Hub about one repository: revisions, listings, URLs; ``client_network`` has that go the way the
user's own client goes. ``snapshot`` has the two download functions, ``call_options`` what both take, ``presets`` the
rules that pick among formats of the same weights. ``acceleration`` puts them in the place of huggingface_hub's own.

huggingface_hub is the authority on listing, tokens, endpoints, offline mode, cache layout and exceptions: its public API
is called, and its exceptions are raised.

May import everything below: the shared modules, ``storage``, ``transports``, ``manager``.

Invariants kept here:

6. A token is sent only to the Hub's own origin; whose origin that is, is decided here.
9. Every wait for metadata ends within a second of Ctrl+C, cancel or shutdown.
"""

from __future__ import annotations

__all__: list[str] = []
