"""The file routes: resolve in its three forms, raw, and the CDN's origin."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from html import escape
from typing import Final
from urllib.parse import quote, unquote

from multidict import CIMultiDict

from hf_haul.localhub.access import entry_not_found, entry_not_served
from hf_haul.localhub.catalog import Asked, Catalog
from hf_haul.localhub.objects import BytesContent
from hf_haul.localhub.options import HubOptions
from hf_haul.localhub.replies import Reply, file_reply, json_reply, text_reply
from hf_haul.localhub.routes_api import xet_token_url
from hf_haul.localhub.signing import Signer
from hf_haul.localhub.trees import REPO_TYPES, Commit, FileEntry

__all__ = ["CDN_PREFIX", "cdn", "resolve"]

#: First part of every path on the other origin.
CDN_PREFIX: Final = "/lfs/"

_PART_SIZE: Final = 8 << 20  # bytes; of the multipart upload that an etag pretends to come from
_XET_INFO: Final = "application/vnd.xet-fileinfo+json"
_TEXT: Final = "text/plain; charset=utf-8"
_TEXT_SUFFIXES: Final = (".json", ".txt", ".md", ".py", ".csv", ".jsonl", ".yaml", ".yml")


def resolve(asked: Asked) -> Reply:
    """Answer for one file (routes 11, 12 and 13)."""
    asked.require_content()
    commit = asked.commit()
    common = {"X-Repo-Commit": asked.commit_name(commit)}
    entry = commit.tree.files.get(asked.route.path)
    if entry is None and commit.listing != "unknown":
        raise entry_not_found("Entry not found", {**common, "Accept-Ranges": "bytes"})
    if entry is None or not entry.is_here:
        raise entry_not_served(asked.repo.repo_id, asked.route.path, commit.id, common)
    if asked.route.kind == "raw" and entry.is_lfs:
        text = BytesContent(entry.pointer)
        return file_reply(
            text, asked.headers, etag=asked.etag(entry.git_oid), name=entry.path, headers=common
        )
    if entry.is_lfs:
        return _lfs_file(asked, commit, entry, common)
    options, repo = asked.options, asked.repo
    redirects = options.git_files == "redirect" or (options.git_files == "auto" and not repo.private)
    if asked.route.kind == "resolve" and redirects:
        return _shape_a(asked, commit, entry, common)
    return _shape_c(asked, entry, common)


def _linked(asked: Asked, entry: FileEntry) -> dict[str, str]:
    return {"X-Linked-Etag": asked.etag(entry.etag), "X-Linked-Size": str(entry.size)}


def _shape_a(asked: Asked, commit: Commit, entry: FileEntry, common: Mapping[str, str]) -> Reply:
    """Return a redirect to a URL whose answer may be cached."""
    repo = asked.repo
    # An odd commit name goes into the path too: it is what the client will ask for next.
    where = (
        f"/api/resolve-cache/{REPO_TYPES[repo.repo_type]}/{quote(repo.repo_id)}"
        f"/{quote(asked.commit_name(commit), safe='')}/{_quoted(entry.path)}"
    )
    location = f"{where}?{quote(asked.route.raw_path, safe='')}=&etag={quote(asked.etag(entry.etag))}"
    reply = text_reply(f"Temporary Redirect. Redirecting to {location}", 307)
    reply.headers.update({**common, **_linked(asked, entry), "Location": location})
    reply.headers["Vary"] = "Origin, Accept"
    return reply


def _shape_c(asked: Asked, entry: FileEntry, common: Mapping[str, str]) -> Reply:
    """Return the bytes."""
    headers = dict(common)
    headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    if entry.path.endswith(_TEXT_SUFFIXES):
        headers["Content-Type"] = _TEXT
    accepted = asked.headers.get("Accept-Encoding", "")
    if asked.options.gzip_git_files and "gzip" in accepted and entry.size:
        return _gzipped(asked, entry, headers)
    etag = asked.etag(entry.etag)
    return file_reply(entry.content, asked.headers, etag=etag, name=_name(entry), headers=headers)


def _gzipped(asked: Asked, entry: FileEntry, headers: Mapping[str, str]) -> Reply:
    body = gzip.compress(entry.content.read(0, entry.size), compresslevel=1, mtime=0)
    reply = Reply(200, CIMultiDict(headers), BytesContent(body), 0, len(body), chunked=True)
    reply.headers["ETag"] = f"W/{asked.etag(entry.etag)}"
    reply.headers["Content-Encoding"] = "gzip"
    reply.headers["Vary"] = "Accept-Encoding"
    return reply


def _lfs_file(asked: Asked, commit: Commit, entry: FileEntry, common: Mapping[str, str]) -> Reply:
    """Return a redirect to a signed URL, or the bytes."""
    headers = {**common, **_linked(asked, entry), **_xet_headers(asked, commit, entry)}
    if asked.options.lfs == "direct" or asked.route.kind == "resolve-cache":
        etag = asked.etag(entry.etag)
        return file_reply(entry.content, asked.headers, etag=etag, name=_name(entry), headers=headers)
    headers.update({"Accept-Ranges": "bytes", "Vary": "Origin, Accept"})
    headers["Cache-Control"] = "no-store"
    if asked.headers.get("Accept", "").startswith(_XET_INFO) and "X-Xet-Hash" in headers:
        reply = json_reply({"hash": entry.xet_hash, "size": entry.size})
        headers["Content-Type"] = _XET_INFO
    else:
        location = _signed_url(asked, commit, entry)
        reply = text_reply(f"Found. Redirecting to {location}", 302)
        headers["Location"] = location
    reply.headers.update(headers)
    return reply


def _signed_url(asked: Asked, commit: Commit, entry: FileEntry) -> str:
    path = f"{CDN_PREFIX}{asked.repo.internal_id}/{entry.content.sha256()}"
    name = quote(_name(entry), safe="", errors="surrogateescape")
    params = {"response_content_disposition": f"attachment; filename*=UTF-8''{name}"}
    # Only for the log: a digest says little to somebody who reads it.
    params |= {"repo": asked.repo.repo_id, "file": entry.path}
    origin = asked.cdn_origin
    if asked.options.lfs == "same_origin":
        # The client's HEAD follows a redirect on its own origin, so the answer there has to look
        # like a Hub's: it needs to know the commit.
        origin = asked.origin
        params["commit"] = asked.commit_name(commit)
    return origin + asked.signer.sign(path, **params)


def _xet_headers(asked: Asked, commit: Commit, entry: FileEntry) -> dict[str, str]:
    if not asked.options.xet or entry.xet_hash is None:
        return {}
    links = [f'<{xet_token_url(asked, commit)}>; rel="xet-auth"']
    if asked.options.cas_url is not None:
        url = f"{asked.options.cas_url}/v1/reconstructions/{entry.xet_hash}"
        links.append(f'<{url}>; rel="xet-reconstruction-info"')
    return {"X-Xet-Hash": entry.xet_hash, "Link": ", ".join(links)}


def _name(entry: FileEntry) -> str:
    return entry.path.rpartition("/")[2]


def _quoted(path: str) -> str:
    return quote(path, errors="surrogateescape")


# -- the other origin


def cdn(
    method: str,
    raw_path: str,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    catalog: Catalog,
    signer: Signer,
    options: HubOptions,
) -> Reply:
    """Answer a signed URL with bytes, or with an S3 error in XML.

    Args:
        method: The HTTP method.
        raw_path: The URL's path as sent.
        query: Its decoded query.
        headers: The request's headers.
        catalog: Where the content is.
        signer: Checks the signature.
        options: How the hub behaves.
    """
    own_origin = "commit" in query
    if "Authorization" in headers and options.cdn_refuses_tokens and not own_origin:
        return _s3_error(400, "InvalidArgument", "Only one auth mechanism allowed")
    wrong = signer.check(raw_path, query)
    if wrong is not None:
        return _s3_error(403, "AccessDenied", wrong)
    if method != "GET" and not own_origin:
        return _s3_error(403, "AccessDenied", "This URL is signed for GET.")
    _prefix, internal_id, sha256 = unquote(raw_path).strip("/").split("/")
    content = catalog.lfs_object(internal_id, sha256)
    if content is None:
        return _s3_error(404, "NoSuchKey", "The specified key does not exist.")
    more = {"Content-Disposition": query.get("response-content-disposition", "attachment")}
    if own_origin:
        more["X-Repo-Commit"] = query["commit"]
    digest = sha256
    if options.cdn_etag == "own" and not own_origin:
        digest = f"{sha256[:32]}-{-(-content.size // _PART_SIZE)}"
    etag = f'"{digest}"' if options.quoted_etags else digest
    reply = file_reply(content, headers, etag=etag, name=sha256, headers=more)
    if reply.status == 416:
        error = _s3_error(416, "InvalidRange", "The requested range is not satisfiable")
        error.headers["Content-Range"] = reply.headers["Content-Range"]
        return error
    return reply


def _s3_error(status: int, code: str, message: str) -> Reply:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
    )
    reply = text_reply(body, status, "application/xml")
    del reply.headers["ETag"]
    return reply
