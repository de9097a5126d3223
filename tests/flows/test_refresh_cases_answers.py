"""Whatever a token endpoint answers to a refresh, no token is lost for it (cases R5 to R10, R12,
R21 to R23).
"""

from typing import Any

import pytest
from support.alive import Alive

from broker.sandbox import Faults, Issuing

HOUR = 3600
STRICT = Issuing(rotation="strict", replay_revokes=True)


@pytest.mark.parametrize(
    "said",
    [
        {"without": ["refresh_token"]},
        {"fields": {"refresh_token": ""}},
        {"fields": {"refresh_token": None}},
    ],
    ids=["absent", "empty", "null"],
)
async def test_a_reply_without_a_refresh_token_leaves_the_old_one(
    alive: Alive, said: dict[str, Any]
) -> None:
    await alive.integrate("steady")
    ada = await alive.connect()
    alive.sandbox.state.issuing = Issuing(rotation="none", **said)
    for generation in (2, 3):
        found = await alive.token(ada, rejected=True)
        assert found.generation == generation
        assert not found.degraded
        assert alive.lives(found)


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        pytest.param(None, HOUR - 60, HOUR, id="null"),
        pytest.param("3600", HOUR - 60, HOUR, id="text"),
        pytest.param(3600.9, HOUR - 60, HOUR, id="fraction"),
        pytest.param(0, 30, 60, id="zero"),
        pytest.param(-5, 30, 60, id="negative"),
        pytest.param(1e12, 399 * 86_400, 400 * 86_400, id="endless"),
        pytest.param(True, HOUR - 60, HOUR, id="true"),
        pytest.param("abc", HOUR - 60, HOUR, id="nonsense"),
    ],
)
async def test_an_odd_lifetime_loses_no_token(
    alive: Alive, said: object, least: int, most: int
) -> None:
    await alive.integrate()
    ada = await alive.connect()
    alive.sandbox.state.issuing = Issuing(rotation="strict", replay_revokes=True, expires_in=said)
    found = await alive.token(ada, rejected=True)
    assert found.generation == 2
    assert alive.lives(found)
    assert found.expires_in is not None
    assert least <= found.expires_in <= most
    assert (await alive.token(ada, rejected=True)).generation == 3, "and its successor works"
    assert alive.well()


async def test_a_yes_without_a_token_changes_nothing_and_is_kept_sealed(alive: Alive) -> None:
    """The new token may be in what we could not read, so it is put aside for a day."""
    await alive.integrate("steady")
    ada = await alive.connect()
    before = await alive.token(ada)
    odd = '{"acces_token": "the-word-is-misspelt", "expires_in": 3600}'
    alive.sandbox.misbehave(Faults(status=200, body=odd, times=1))
    found = await alive.token(ada, rejected=True)
    assert found.degraded
    assert found.tokens is not None
    assert before.tokens is not None
    assert found.tokens.access_token == before.tokens.access_token
    assert await alive.state(ada) == "uncertain"
    [kept] = await alive.over.admin.fetch(
        "select kind, sealed from vault.refresh_answers where connection_id = $1", ada
    )
    assert kept["kind"] == "raw"
    assert b"misspelt" not in kept["sealed"]
    await alive.comes(ada)
    await alive.sweep()
    assert (await alive.state(ada), await alive.generation(ada)) == ("active", 2)


@pytest.mark.parametrize(
    ("status", "body", "outcome", "state"),
    [
        pytest.param(403, '{"detail": "blocked"}', "transient", "backoff", id="firewall"),
        pytest.param(
            400,
            '{"error": "invalid_request", "error_description": "concurrent refresh"}',
            "transient",
            "backoff",
            id="concurrent",
        ),
        pytest.param(
            400, '{"error": "temporarily_unavailable"}', "transient", "backoff", id="temporarily"
        ),
        pytest.param(418, "short and stout", "transient", "backoff", id="unknown_status"),
        pytest.param(400, '{"error": "never_heard_of"}', "transient", "backoff", id="unknown_code"),
        pytest.param(500, "", "ambiguous", "uncertain", id="server_error"),
        pytest.param(408, "", "ambiguous", "uncertain", id="request_timeout"),
        pytest.param(301, "", "transient", "backoff", id="redirect"),
        pytest.param(200, "<title>Sign in</title>", "ambiguous", "uncertain", id="a_page"),
        pytest.param(
            200, '{"ok": false, "error": "ratelimited"}', "throttled", "backoff", id="slack_busy"
        ),
    ],
)
async def test_what_is_no_word_about_the_grant_condemns_nobody(
    alive: Alive, status: int, body: str, outcome: str, state: str
) -> None:
    await alive.integrate("steady")
    ada = await alive.connect()
    alive.sandbox.misbehave(Faults(status=status, body=body))
    for _ in range(4):
        assert (await alive.token(ada, rejected=True)).degraded
        assert await alive.state(ada) == state
        await alive.comes(ada)
    assert set(await alive.outcomes(ada)) == {outcome}
    assert "connection.needs_reauth" not in await alive.events(ada)
    alive.sandbox.misbehave(None)
    await alive.passes(minutes=20)
    await alive.sweep()
    found = await alive.token(ada, rejected=True)
    assert (await alive.state(ada), found.degraded) == ("active", False)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, '{"error": "invalid_grant"}'),
        (200, '{"error": "bad_refresh_token"}'),
        (200, '{"ok": false, "error": "invalid_refresh_token"}'),
        (200, '{"ok": false, "error": "token_revoked"}'),
        (200, "error=bad_refresh_token&error_description=passed+on"),
    ],
    ids=["rfc", "github", "slack", "slack_revoked", "form"],
)
async def test_a_no_is_heard_in_every_dialect(alive: Alive, status: int, body: str) -> None:
    await alive.integrate()
    ada = await alive.connect()
    alive.sandbox.misbehave(Faults(status=status, body=body))
    await alive.token(ada, rejected=True)
    assert await alive.state(ada) == "suspect"
    calls = alive.calls
    await alive.comes(ada)
    await alive.sweep()
    assert await alive.state(ada) == "needs_reauth"
    assert alive.calls == calls, "a rotated token is not sent again to make sure"


async def test_a_form_is_read_like_an_object(alive: Alive) -> None:
    await alive.integrate()
    ada = await alive.connect()
    alive.sandbox.misbehave(Faults(twist="form"))
    for generation in (2, 3):
        found = await alive.token(ada, rejected=True)
        assert found.generation == generation
        assert alive.lives(found)


async def test_narrower_scopes_are_stored_and_told(alive: Alive) -> None:
    await alive.integrate(scopes=["files", "mail"])
    ada = await alive.connect(scopes=["files", "mail"])
    assert (await alive.token(ada)).missing_scopes == ()
    alive.sandbox.state.issuing = Issuing(
        rotation="strict", replay_revokes=True, fields={"scope": "files"}
    )
    found = await alive.token(ada, rejected=True)
    assert (found.scopes, found.missing_scopes) == (("files",), ("mail",))
    assert "connection.scope_reduced" in await alive.events(ada)
    await alive.token(ada, rejected=True)
    events = await alive.events(ada)
    assert events.count("connection.scope_reduced") == 1, "it is news once"
