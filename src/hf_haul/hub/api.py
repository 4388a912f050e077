"""huggingface_hub's own API, with a timeout for every request, and errors that name a malformed answer."""

from __future__ import annotations

import reprlib
from typing import Any
from urllib.parse import quote

from huggingface_hub import HfApi, RepoFile, constants
from huggingface_hub import RepoFolder as ListedFolder

from hf_haul.hub.asking import explain_misreads, raise_for_status, uncached_timeout
from hf_haul.hub.listing import BadListingError, is_encodable, page_problem, read_page
from hf_haul.hub.tokens import protect_secrets
from hf_haul.urls import redact

__all__ = ["HubApi", "entry_of"]


class HubApi(HfApi):
    """huggingface_hub's own API, with a timeout for every request and errors that name a malformed answer."""

    def repo_info(self, repo_id: str, **options: Any) -> Any:
        """Return huggingface_hub's answer, requested with a timeout."""
        if options.get("timeout") is None:  # for ever
            options["timeout"] = uncached_timeout()
        with protect_secrets(self.endpoint), explain_misreads(f"{redact(self.endpoint)}/{repo_id}"):
            info = super().repo_info(repo_id, **options)
            sha: object = info.sha
            if sha is not None and not (isinstance(sha, str) and is_encodable(sha)):
                raise TypeError(f"its commit is {reprlib.repr(sha)}")
            return info

    def get_paths_info(
        self,
        repo_id: str,
        paths: list[str] | str,
        *,
        expand: bool = False,
        revision: str | None = None,
        repo_type: str | None = None,
        token: str | bool | None = None,
    ) -> list[RepoFile | ListedFolder]:
        """Return huggingface_hub's answer, requested with a timeout and bounded in size."""
        url = f"{self.endpoint}/api/{repo_type or constants.REPO_TYPE_MODEL}s/{repo_id}/paths-info"
        url = f"{url}/{quote(revision or constants.DEFAULT_REVISION, safe='')}"
        data = {"paths": [paths] if isinstance(paths, str) else paths, "expand": expand}
        with protect_secrets(self.endpoint):
            response = read_page(url, method="POST", data=data, headers=self._build_hf_headers(token=token))
            raise_for_status(response)
        with explain_misreads(redact(url)):
            page = response.json()
        problem = page_problem(page)
        if problem is not None:
            raise BadListingError(url, problem)
        return [entry_of(url, item) for item in page]


def entry_of(url: str, item: dict[str, Any]) -> RepoFile | ListedFolder:
    """Return an entry of a listing as huggingface_hub has it.

    Raises:
        BadAnswerError: Something in it is not what a Hub sends.
    """
    with explain_misreads(f"{reprlib.repr(item['path'])} in {redact(url)}"):
        make: Any = RepoFile if item["type"] == "file" else ListedFolder
        entry: RepoFile | ListedFolder = make(**{"oid": "", **item})
        return entry
