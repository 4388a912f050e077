"""The API routes: repository info, trees, refs, commits, tokens."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlencode

from hf_haul.localhub.access import entry_not_found, not_found
from hf_haul.localhub.catalog import Asked
from hf_haul.localhub.replies import Refusal, Reply, json_reply, text_reply
from hf_haul.localhub.repository import Repo
from hf_haul.localhub.routing import Route
from hf_haul.localhub.trees import REPO_TYPES, Commit, Entry, FileEntry

__all__ = ["API_ROUTES", "LISTING_HEADER", "home", "list_repos", "xet_token_url"]

#: Says ``partial`` where a list of files is not the Hub's own: clients of ours do not keep it.
LISTING_HEADER: Final = "X-Haul-Listing"

_MOST_PATHS: Final = 1000  # paths in one paths-info request
_MOST_DIGITS: Final = 15


def xet_token_url(asked: Asked, commit: Commit) -> str:
    """Return the URL of a token to read this commit's Xet files."""
    repo = asked.repo
    return f"{asked.origin}/api/{REPO_TYPES[repo.repo_type]}/{quote(repo.repo_id)}/xet-read-token/{commit.id}"


# -- repository info


def info(asked: Asked) -> Reply:
    """Answer with a repository's info (routes 1 and 2)."""
    commit = asked.commit()
    values = _info_values(asked, commit)
    if commit.listing == "unknown":
        del values["siblings"], values["usedStorage"]  # what is here may be a part of it
    wanted = asked.route.all("expand")
    if wanted:
        values = {k: v for k, v in values.items() if k in {"_id", "id", *wanted}}
    return _marked(json_reply(values), commit)


def _marked(reply: Reply, commit: Commit) -> Reply:
    """Mark an answer whose list of files may be incomplete, so that no client caches it."""
    if commit.listing == "vouched":
        reply.headers[LISTING_HEADER] = "partial"
    return reply


def _require_listing(asked: Asked, commit: Commit) -> None:
    if commit.listing == "unknown":
        raise Refusal(
            404,
            f"Which files {asked.repo.repo_id} has at {asked.commit_name(commit)} is not known here: some of them are"
            " in the cache that is served, but not the Hub's listing. Single files can be had. (Whoever serves it can"
            " download the repository with snapshot_download, or vouch with --complete that all files are there.)",
            "ListingUnknown",
        )


def _info_values(asked: Asked, commit: Commit) -> dict[str, Any]:
    repo = asked.repo
    blobs = asked.route.flag("blobs")
    files = sorted(commit.tree.files.values(), key=lambda entry: entry.path)
    oldest = commit.history()[-1]
    values: dict[str, Any] = {
        "_id": repo.internal_id,
        "id": repo.repo_id,
        "author": repo.repo_id.partition("/")[0],
        "private": repo.private,
        "gated": repo.gated,
        "disabled": repo.disabled,
        "sha": asked.commit_name(commit),
        "createdAt": oldest.date,
        "lastModified": commit.date,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "cardData": {},
        "usedStorage": sum(entry.size for entry in files),
        "siblings": [_sibling(entry, blobs=blobs) for entry in files],
    }
    if repo.repo_type == "model":
        values.update(modelId=repo.repo_id, config={}, spaces=[], library_name="transformers")
    if repo.repo_type == "space":
        values.update(sdk="static", subdomain=repo.repo_id.replace("/", "-"), models=[])
    if asked.route.flag("securityStatus"):
        values["securityRepoStatus"] = {"scansDone": True, "filesWithIssues": []}
    return values


def _sibling(entry: FileEntry, *, blobs: bool) -> dict[str, Any]:
    values: dict[str, Any] = {"rfilename": entry.path}
    if blobs:
        values.update(size=entry.size, blobId=entry.git_oid)
        if entry.is_lfs:
            values["lfs"] = {
                "sha256": entry.content.sha256(),  # in the tree the same thing is called "oid"
                "size": entry.size,
                "pointerSize": len(entry.pointer),
            }
    return values


def list_repos(route: Route, repos: Iterable[Repo]) -> Reply:
    """Answer with the repositories of one type, as ``list_models`` and its like ask for them.

    Args:
        route: ``search``, ``author`` and ``limit`` are obeyed.
        repos: Those the account may know about, of any type.
    """
    search = (route.get("search") or "").lower()
    author = route.get("author")
    chosen = [
        repo
        for repo in sorted(repos, key=lambda repo: repo.repo_id)
        if repo.repo_type == route.repo_type
        and search in repo.repo_id.lower()
        and author in (None, repo.repo_id.partition("/")[0])
    ]
    rows: list[dict[str, Any]] = [
        {
            "_id": repo.internal_id,
            "id": repo.repo_id,
            "private": repo.private,
            "gated": repo.gated,
            "downloads": 0,
            "likes": 0,
            "tags": [],
        }
        for repo in chosen
    ]
    return json_reply(rows[: _number(route.get("limit"), len(rows) or 1)])


def home(repos: Iterable[Repo]) -> Reply:
    """Answer with the page that a browser shows."""
    lines = ["A local Hugging Face Hub (hf-haul). Set HF_ENDPOINT to this address.", ""]
    lines += sorted(f"{REPO_TYPES[repo.repo_type]}/{repo.repo_id}" for repo in repos)
    return text_reply("\n".join(lines) + "\n")


# -- trees


def tree(asked: Asked) -> Reply:
    """Answer with one page of a tree (route 3)."""
    commit = asked.commit()
    _require_listing(asked, commit)
    path = asked.route.path.strip("/")
    if not commit.tree.is_dir(path):
        raise entry_not_found(f'{path} does not exist on "{asked.route.revision}"')
    recursive, expand = asked.route.flag("recursive"), asked.route.flag("expand")
    options = asked.options
    most = options.expanded_page_size if expand else options.page_size
    limit = min(most, _number(asked.route.get("limit"), most))
    after = _read_cursor(asked.route.get("cursor"))
    rows, following = commit.tree.page(path, recursive=recursive, after=after, limit=limit)
    reply = json_reply([_tree_row(asked, commit, row, expand=expand) for row in rows])
    if following is not None:
        query = {
            "recursive": str(recursive).lower(),
            "expand": str(expand).lower(),
            "limit": str(limit),
            "cursor": _write_cursor(following),
        }
        _link_to_next(asked, reply, query)
    return _marked(reply, commit)


def _link_to_next(asked: Asked, reply: Reply, query: Mapping[str, str]) -> None:
    origin = asked.options.link_origin or asked.origin
    reply.headers["Link"] = f'<{origin}{asked.route.raw_path}?{urlencode(query)}>; rel="next"'


def _tree_row(asked: Asked, commit: Commit, entry: Entry, *, expand: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "type": "file" if isinstance(entry, FileEntry) else "directory",
        "oid": entry.git_oid,
        "size": entry.size if isinstance(entry, FileEntry) else 0,
        "path": entry.path,
    }
    if isinstance(entry, FileEntry) and entry.is_lfs:
        row["lfs"] = {
            "oid": entry.content.sha256(),
            "size": entry.size,
            "pointerSize": len(entry.pointer),
        }
        if asked.options.xet and entry.xet_hash is not None:
            row["xetHash"] = entry.xet_hash
    if expand:
        changed = commit.last_change[entry.path]
        row["lastCommit"] = {"id": changed.id, "title": changed.title, "date": changed.date}
        if isinstance(entry, FileEntry):
            row["securityFileStatus"] = {
                "status": "safe",
                "avScan": {"status": "safe"},
                "pickleImportScan": None,
            }
    return row


def _number(text: str | None, default: int, *, least: int = 1) -> int:
    if not text:
        return default
    if not text.isdecimal() or len(text) > _MOST_DIGITS or int(text) < least:
        raise Refusal(400, f"not a number from {least} up: {text[:_MOST_DIGITS]}")
    return int(text)


def _write_cursor(position: tuple[int, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode("ascii")


def _read_cursor(cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    try:
        group, path = json.loads(base64.urlsafe_b64decode(cursor))
        return int(group), str(path)
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Refusal(400, "invalid cursor") from error


def paths_info(asked: Asked) -> Reply:
    """Answer for some paths, given as a form or JSON, without those that do not exist (route 4)."""
    if asked.method != "POST":
        raise not_found()
    paths, expand = _paths_asked(asked)
    if len(paths) > _MOST_PATHS:
        raise Refusal(400, f"at most {_MOST_PATHS} paths, not {len(paths)}")
    commit = asked.commit()
    found = [commit.tree.get(path.strip("/")) for path in dict.fromkeys(paths)]
    if not all(isinstance(entry, FileEntry) for entry in found):
        _require_listing(asked, commit)
    rows = [_tree_row(asked, commit, row, expand=expand) for row in found if row is not None]
    return _marked(json_reply(rows), commit)


def _paths_asked(asked: Asked) -> tuple[list[str], bool]:
    text = asked.body.decode("utf-8", "surrogateescape")
    if "json" not in asked.headers.get("Content-Type", ""):
        form = parse_qs(text, keep_blank_values=True)
        return form.get("paths", []), form.get("expand", ["false"])[-1].lower() == "true"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "the body is no JSON, or nested too deeply") from error
    paths = value.get("paths") if isinstance(value, dict) else None
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise Refusal(400, '"paths" is required: a list of texts')
    return paths, bool(value.get("expand"))


# -- refs and commits

_REF_GROUPS: Final = {
    "refs/heads/": "branches",
    "refs/convert/": "converts",
    "refs/tags/": "tags",
    "refs/pr/": "pullRequests",
}


def refs(asked: Asked) -> Reply:
    """Answer with branches, tags and other refs (route 5)."""
    groups: dict[str, list[dict[str, str]]] = {"branches": [], "converts": [], "tags": []}
    if asked.route.flag("include_prs"):
        groups["pullRequests"] = []
    for ref, commit in asked.repo.refs.items():
        for prefix, group in _REF_GROUPS.items():
            if ref.startswith(prefix) and group in groups:
                row = {"name": ref[len(prefix) :], "ref": ref, "targetCommit": commit.id}
                groups[group].append(row)
    return json_reply(groups)


def commits(asked: Asked) -> Reply:
    """Answer with the history, newest first (route 6)."""
    history = asked.commit().history()
    most = asked.options.commits_page_size
    limit = min(most, _number(asked.route.get("limit"), most))
    page = _number(asked.route.get("p"), 0, least=0)
    formatted = "formatted" in asked.route.all("expand")
    chosen = history[page * limit : (page + 1) * limit]
    reply = json_reply([_commit_row(commit, formatted=formatted) for commit in chosen])
    reply.headers["X-Total-Count"] = str(len(history))
    if (page + 1) * limit < len(history):
        query = {"p": str(page + 1), "limit": str(limit)}
        _link_to_next(asked, reply, {"expand[]": "formatted", **query} if formatted else query)
    return reply


def _commit_row(commit: Commit, *, formatted: bool) -> dict[str, Any]:
    rest = commit.message.partition("\n")[2].strip()
    row: dict[str, Any] = {
        "id": commit.id,
        "title": commit.title,
        "message": rest,
        "authors": [{"user": commit.author, "avatar": ""}],
        "date": commit.date,
    }
    if formatted:
        row["formatted"] = {"title": f"<p>{commit.title}</p>", "message": f"<p>{rest}</p>"}
    return row


# -- rights


def auth_check(asked: Asked) -> Reply:
    """Answer whether the account may have the files (route 9)."""
    asked.require_content()
    return json_reply({"ok": True})


def xet_read_token(asked: Asked) -> Reply:
    """Answer with three values as headers and as JSON: clients read one or the other (route 7)."""
    asked.require_content()
    asked.commit()
    if asked.options.cas_url is None:
        raise not_found()
    expires = int(time.time() + asked.options.xet_token_lifetime)
    token = f"xet_{asked.repo.internal_id}_{expires}"
    url = asked.options.cas_url
    reply = json_reply({"accessToken": token, "casUrl": url, "exp": expires})
    reply.headers["X-Xet-Cas-Url"] = url
    reply.headers["X-Xet-Access-Token"] = token
    reply.headers["X-Xet-Token-Expiration"] = str(expires)
    return reply


def _read_only(_asked: Asked) -> Reply:
    raise Refusal(403, "This hub is read-only.")


#: What answers each kind of route.
API_ROUTES: Final[Mapping[str, Callable[[Asked], Reply]]] = {
    "info": info,
    "tree": tree,
    "paths-info": paths_info,
    "refs": refs,
    "commits": commits,
    "auth-check": auth_check,
    "xet-read-token": xet_read_token,
    "xet-write-token": _read_only,
}
