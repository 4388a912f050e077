"""All that speaks huggingface_hub: listings, metadata, snapshot_download, hf_hub_download, accelerate.

From the ground up:

* ``metadata``: what is known of a revision and of a file; which etags are digests. ``tokens``: which origins
  may get the token. ``client_network``: what the user's own client does about proxies and certificates.
* ``asking``: which errors are transient, how often and after what wait a question is asked again.
  ``listing``: the pages of a listing, and what can be wrong with them; ``file_listing``: the files in them.
  ``api``: huggingface_hub's own API, with both.
* ``repository``: one repository, its revisions, listing, metadata and URLs; ``repo_sources``: where else the
  bytes of its files can be had. ``upstream_cache``: what huggingface_hub keeps in its cache besides files;
  ``long_listings`` reads and writes the longest of it.
* ``bars``, ``notebooks``, ``call_options``, ``local_dir``, ``fallback``, ``presets``: what the public
  functions share: progress bars (``bar_making`` makes them, ``wait_bars`` says in them what is waited for),
  arguments, the state of a ``local_dir``, what is done when the Hub does not answer, the choice among
  formats.
* ``call_events``, ``snapshot_events``, ``verify_events``: what the public functions tell ``on_event``.
* ``upstream_forks``: forks beside threads that use huggingface_hub.
* ``status``: what is partial in a cache or a folder; ``partial_names``, ``uris``: what a partial file is of;
  ``cleaning`` removes what nobody uses. ``cached``: what a cache holds.
* ``verification``: whether files are what the Hub has. ``verify_targets`` says which folder that is about,
  ``verify_subjects`` what each of its files has to be, ``verify_checks`` what it is, ``verify_report`` how
  that is told; ``repair`` mends it.
* ``snapshot_files``: which commit a call is about, and which of its files; ``named_files``: those that must
  be there; ``known_files``: what is known of them; ``snapshot_requests``: those to be fetched.
* ``planning``: what a download would do, told as a ``download_plan``.
* ``link_test``: what a link brings by the number of connections; ``link_report`` says what follows from it.
* ``snapshot``, ``single_file``: the two download functions; ``snapshot_call`` is one call of the first,
  ``several_snapshots`` carries out some together, and ``joined_events`` tells them as one.
  ``acceleration`` puts them in the place of huggingface_hub's.

huggingface_hub is the authority on listing, tokens, endpoints, offline mode, cache layout and exceptions: its
public API is called, and its exceptions are raised.

May import everything below: the shared modules, ``storage``, ``transports``, ``manager``.

Invariants kept here:

6. A token is sent only to the Hub's own origin; whose origin that is, is decided here.
9. Every wait for metadata ends within a second of Ctrl+C, cancel or shutdown.
"""

from __future__ import annotations

from hf_haul.hub.notebooks import choose_bars_quietly

choose_bars_quietly()  # before anything here imports huggingface_hub

__all__: list[str] = []
