"""Where the files of a repository can be had beside their Hub, as a call or the settings name it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from hf_haul.config import Settings
from hf_haul.engine.other_sources import other_sources
from hf_haul.hub.asking import LISTING_ERRORS
from hf_haul.hub.call_options import CallOptions
from hf_haul.hub.metadata import FileMetadata
from hf_haul.hub.repository import Repository
from hf_haul.task import OtherSource
from hf_haul.urls import origin_of, parse_url

__all__ = ["checkable", "repo_sources", "sources_of_call"]

logger = logging.getLogger(__name__)


def sources_of_call(repository: Repository, commit: str, options: CallOptions) -> tuple[OtherSource, ...]:
    """Return the sources of a repository's files at a commit: those of a call, or else of the settings.

    Raises:
        InvalidUrlError: One is no URL of http or https.
    """
    manager = options.manager
    settings = Settings.from_environment() if manager is None else manager.settings
    return repo_sources(repository, commit, settings, options.sources)


def repo_sources(
    repository: Repository, commit: str, settings: Settings, urls: Sequence[str] | None = None
) -> tuple[OtherSource, ...]:
    """Return the sources of a repository's files at a commit: those of the settings, or others.

    Each is asked for ``{source}/{repository}/resolve/{commit}/{path}``, as the Hub is, which is none itself.

    Args:
        repository: The repository.
        commit: The commit.
        settings: Whose sources and tokens count.
        urls: The sources, in place of those of the settings.

    Raises:
        InvalidUrlError: One is no URL of http or https.
    """
    urls = settings.sources if urls is None else urls
    if not urls:
        return ()
    own = origin_of(repository.base)
    tail = _target(repository.url("x", commit)).removeprefix(_target(repository.base).rstrip("/"))

    def with_tail(url: str) -> str:
        head, mark, query = url.partition("#")[0].partition("?")
        return f"{head.rstrip('/')}{tail.removesuffix('/x')}{mark}{query}"

    found = other_sources(urls, settings, headers=repository.request_headers, make_url=with_tail)
    return tuple(each for each in found if origin_of(each.url) != own)


def _target(url: str) -> str:
    return parse_url(url, userinfo=True).target


def checkable(repository: Repository, path: str, meta: FileMetadata) -> FileMetadata:
    """Return what a Hub's answer about a file says, as listed where the Hub's listing says the same.

    An etag of an answer is the digest at the Hub itself; a mirror's may be anything that looks like it.
    """
    if meta.listed or repository.is_hub:
        return meta
    confirm = repository.confirmation(path, meta.commit)
    try:
        digest = None if confirm is None else confirm()
    except LISTING_ERRORS as error:
        logger.debug("%s is fetched from its Hub alone, as its digest is not known: %s", path, error)
        return meta
    return replace(meta, listed=True) if digest is not None and digest.value == meta.etag else meta
