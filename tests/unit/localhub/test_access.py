"""Who may see what: every kind of repository against every kind of user."""

from __future__ import annotations

import contextlib

import pytest

from hf_haul.localhub.access import Account, Accounts
from hf_haul.localhub.replies import Refusal
from hf_haul.localhub.repository import Repo

ANN = Account("ann", "hf_ann", repos=("org/*",), gated=("org/gated",))
BOB = Account("bob", "hf_bob")
ACCOUNTS = Accounts([ANN, BOB])

OPEN, PRIVATE = Repo("org/open"), Repo("org/private", private=True)
GATED, DISABLED = Repo("org/gated", gated="auto"), Repo("org/off", disabled=True)
HIDDEN = Repo("other/private", private=True)

UNKNOWN, MISSING = (401, "RepoNotFound"), (404, "RepoNotFound")


@pytest.mark.parametrize(
    ("repo", "account", "expected"),
    [
        pytest.param(OPEN, None, None, id="open, anonymous"),
        pytest.param(OPEN, BOB, None, id="open, somebody"),
        pytest.param(PRIVATE, None, UNKNOWN, id="private, anonymous"),
        pytest.param(PRIVATE, BOB, MISSING, id="private, a stranger"),
        pytest.param(PRIVATE, ANN, None, id="private, a member"),
        pytest.param(HIDDEN, ANN, MISSING, id="private, a member of another"),
        pytest.param(None, None, UNKNOWN, id="missing, anonymous"),
        pytest.param(None, ANN, MISSING, id="missing, somebody"),
        pytest.param(GATED, None, None, id="gated is visible"),
        pytest.param(DISABLED, ANN, (403, None), id="disabled"),
    ],
)
def test_reading_about_a_repository(
    repo: Repo | None, account: Account | None, expected: tuple[int, str | None] | None
) -> None:
    if expected is None:
        assert ACCOUNTS.require_read(repo, account) is repo
        return
    with pytest.raises(Refusal) as refused:
        ACCOUNTS.require_read(repo, account)
    assert (refused.value.status, refused.value.code) == expected


@pytest.mark.parametrize(
    ("repo", "account", "expected"),
    [
        pytest.param(OPEN, None, None, id="open"),
        pytest.param(GATED, ANN, None, id="gated, let in"),
        pytest.param(GATED, BOB, (403, "you are not in the authorized list"), id="gated, not let in"),
        pytest.param(GATED, None, (401, "Please log in."), id="gated, anonymous"),
    ],
)
def test_having_the_files_of_a_repository(
    repo: Repo, account: Account | None, expected: tuple[int, str] | None
) -> None:
    if expected is None:
        ACCOUNTS.require_content(repo, account, "http://hub")
        return
    with pytest.raises(Refusal, match=expected[1]) as refused:
        ACCOUNTS.require_content(repo, account, "http://hub")
    assert (refused.value.status, refused.value.code) == (expected[0], "GatedRepo")
    assert str(refused.value).startswith("Access to model org/gated is restricted")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param({}, None, id="anonymous"),
        pytest.param({"Authorization": "Bearer hf_ann"}, ANN, id="a token"),
        pytest.param({"Authorization": "bearer  hf_bob "}, BOB, id="written otherwise"),
    ],
)
def test_a_token_stands_for_an_account(header: dict[str, str], expected: Account | None) -> None:
    assert ACCOUNTS.identify(header) is expected


@pytest.mark.parametrize("header", ["Bearer nobody", "Basic hf_ann", "hf_ann", ""])
def test_what_is_no_known_token_is_refused_even_where_none_is_needed(header: str) -> None:
    with pytest.raises(Refusal) as refused:
        ACCOUNTS.identify({"Authorization": header})
    assert refused.value.status == 401
    assert "WWW-Authenticate" in refused.value.headers


def test_over_tls_a_bare_401_has_no_code_as_on_the_hub() -> None:
    with pytest.raises(Refusal) as refused:
        Accounts(code_on_401=False).require_read(None, None)
    assert (refused.value.status, refused.value.code) == (401, None)


def test_an_account_can_be_added_later() -> None:
    accounts = Accounts()
    accounts.add(ANN)
    assert accounts.identify({"Authorization": "Bearer hf_ann"}) is ANN
    assert accounts.whoami(ANN)["name"] == "ann"
    with pytest.raises(Refusal) as refused:
        accounts.whoami(None)
    assert (refused.value.status, refused.value.code) == (401, None)


def test_a_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("hf_haul.localhub.access.hmac.compare_digest", compare)
    accounts = Accounts([Account("ann", "hf_ann"), Account("bob", "hf_bob")])
    for token in ("hf_ann", "h", "schlüssel"):
        with contextlib.suppress(Refusal):
            accounts.identify({"Authorization": f"Bearer {token}"})
    assert len(compared) == 6, "every token there is, whichever is right"
    assert {len(each) for pair in compared for each in pair} == {32}, "and nothing about how long they are"


def test_a_token_that_was_revoked_is_refused() -> None:
    accounts = Accounts([ANN, BOB])
    accounts.revoke("hf_ann")
    assert accounts.identify({"Authorization": "Bearer hf_bob"}) == BOB
    with pytest.raises(Refusal):
        accounts.identify({"Authorization": "Bearer hf_ann"})
