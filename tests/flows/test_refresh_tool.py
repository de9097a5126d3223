"""The refresh tool: what an agent's tool gets in mid-conversation, at a provider that rotates."""

import asyncio

import pytest
from msgspec.structs import replace
from support.journeys import Clock
from support.talking import Stage

from broker.sandbox import Faults


async def test_a_token_that_lasts_is_current(stage: Stage) -> None:
    talk = await stage.begin()
    reply = await talk.refresh({"integration": "acme", "generation": 1})

    assert reply.status == 200, reply.body
    assert reply.headers["Cache-Control"] == "no-store"
    found = reply.json
    assert found["status"] == "current"
    assert found["integration"] == "acme"
    assert found["generation"] == 1
    assert 3_500 < found["expires_in"] <= 3_600
    [token] = talk.tokens
    assert found["variables"] == {
        "secret__user_acme_token": token,
        "secret__user_acme_authorization": f"Bearer {token}",
        "user_acme_generation": 1,
    }
    assert talk.refreshes == 0


async def test_one_that_was_rejected_is_refreshed_once(stage: Stage) -> None:
    talk = await stage.begin()
    first = await talk.refresh({"integration": "acme", "generation": 1, "rejected": True})

    assert first.json["status"] == "refreshed"
    assert first.json["generation"] == 2
    assert first.json["variables"]["user_acme_generation"] == 2
    assert first.json["variables"]["secret__user_acme_token"] not in talk.tokens
    again = await talk.refresh({"integration": "acme", "generation": 1, "rejected": True})
    assert again.json["status"] == "current"
    assert again.json["variables"] == first.json["variables"]
    assert talk.refreshes == 1


async def test_each_generation_is_refreshed_for_a_rejection_only_once(
    stage: Stage, clock: Clock
) -> None:
    talk = await stage.begin()
    talk.provider.misbehave(Faults(status=500))
    first = await talk.refresh({"integration": "acme", "generation": 1, "rejected": True})
    assert first.json["status"] == "degraded"
    calls = await talk.attempts()
    assert calls > 0
    # Nothing is in the way of another try, but that there was one.
    talk.provider.misbehave(None)
    await clock.do(
        "update vault.connection_lives set next_try_at = null, failures = 0, state = 'active'"
        " where connection_id = $1",
        talk.connection,
    )
    for _ in range(3):
        reply = await talk.refresh({"integration": "acme", "rejected": True})
        assert reply.json["status"] == "degraded"
        assert reply.json["variables"]["secret__user_acme_token"] == talk.tokens[0]
    assert await talk.attempts() == calls


async def test_one_that_would_not_last_a_minute_is_refreshed(stage: Stage, clock: Clock) -> None:
    talk = await stage.begin()
    await clock.leave(talk.connection, seconds=50)
    reply = await talk.refresh({"integration": "acme", "generation": 1})

    assert reply.json["status"] == "refreshed"
    assert reply.json["expires_in"] > 60


async def test_one_that_never_lives_for_two_minutes_is_as_good_as_they_get(stage: Stage) -> None:
    stage.provider.state.issuing = replace(stage.provider.state.issuing, lifetime=50)
    talk = await stage.begin()
    assert (await talk.api.post(f"/v1/connections/{talk.connection}/refresh")).status == 200
    calls = talk.refreshes
    reply = await talk.refresh({"integration": "acme", "generation": 2})

    assert reply.json["status"] == "current"
    assert talk.refreshes == calls


async def test_who_has_an_older_one_gets_the_present_one(stage: Stage) -> None:
    talk = await stage.begin()
    assert (await talk.api.post(f"/v1/connections/{talk.connection}/refresh")).status == 200
    calls = talk.refreshes
    reply = await talk.refresh({"integration": "acme", "generation": 1, "rejected": True})

    assert reply.json["status"] == "current"
    assert reply.json["generation"] == 2
    assert talk.refreshes == calls


async def test_a_dead_provider_leaves_the_living_token(stage: Stage, clock: Clock) -> None:
    talk = await stage.begin()
    await clock.leave(talk.connection, seconds=50)
    talk.provider.misbehave(Faults(status=500))
    reply = await talk.refresh({"integration": "acme", "generation": 1})

    assert reply.json["status"] == "degraded"
    assert reply.json["variables"]["secret__user_acme_token"] == talk.tokens[0]


async def test_many_at_once_make_one_refresh(stage: Stage) -> None:
    talk = await stage.begin()
    body = {"integration": "acme", "generation": 1, "rejected": True}
    replies = await asyncio.gather(*(talk.refresh(body) for _ in range(8)))

    assert {reply.status for reply in replies} == {200}
    assert {reply.json["generation"] for reply in replies} == {2}
    assert len({reply.json["variables"]["secret__user_acme_token"] for reply in replies}) == 1
    assert talk.refreshes == 1


async def test_the_provider_may_be_named_where_there_is_one(stage: Stage) -> None:
    talk = await stage.begin()
    for body in ({"provider": "oidc"}, {"provider": "acme"}, {}):
        reply = await talk.refresh(body)
        assert (reply.status, reply.json["integration"]) == (200, "acme")

    two = await stage.begin(user="grace", integrations=("acme", "other"))
    reply = await two.refresh({"provider": "oidc"})
    assert (reply.status, reply.code) == (422, "invalid")
    assert (await two.refresh({"integration": "other"})).json["integration"] == "other"


async def test_a_dry_run_does_everything_and_gives_no_credential(stage: Stage) -> None:
    talk = await stage.begin()
    body = {"integration": "acme", "generation": 1, "rejected": True}
    reply = await talk.refresh(body, query="?dry_run=true")

    assert reply.json["status"] == "refreshed"
    assert reply.json["variables"] == {"user_acme_generation": 2}
    assert (await talk.stored())["access_token"].encode() not in reply.body


@pytest.mark.parametrize("generation", [1, "1"])
async def test_a_generation_may_come_as_text(stage: Stage, generation: int | str) -> None:
    talk = await stage.begin()
    reply = await talk.refresh({"integration": "acme", "generation": generation})
    assert reply.json["status"] == "current"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"{", 400),
        (b"[]", 422),
        (b'{"integration": 7}', 422),
        (b'{"generation": "one"}', 422),
        (b'{"rejected": "yes"}', 422),
        (b"\xff", 400),
        (b"[" * 200_000, 422),
    ],
)
async def test_what_cannot_be_read_is_refused(stage: Stage, raw: bytes, status: int) -> None:
    talk = await stage.begin()
    reply = await talk.refresh(raw=raw)
    assert reply.status == status, reply.body


async def test_an_expired_token_is_never_given_and_it_is_said_what_helps(
    stage: Stage, clock: Clock
) -> None:
    talk = await stage.begin()
    await clock.leave(talk.connection, seconds=-1)
    talk.provider.misbehave(Faults(status=500))
    reply = await talk.refresh({"integration": "acme"})

    assert (reply.status, reply.code) == (503, "provider_unavailable")
    assert reply.json["action"] == "retry"
    assert talk.tokens[0].encode() not in reply.body
    talk.provider.misbehave(None)
    await clock.do(
        "update vault.connection_lives set verdict = 'refused', state = 'needs_reauth'"
        " where connection_id = $1",
        talk.connection,
    )
    reply = await talk.refresh({"integration": "acme"})
    assert (reply.status, reply.code) == (409, "needs_reauth")
    assert reply.json["action"] == "reconnect"


async def test_its_use_is_limited(stage: Stage) -> None:
    talk = await stage.begin()
    calls = [talk.refresh({"integration": "acme"}) for _ in range(120)]
    replies = await asyncio.gather(*calls)
    given = [reply for reply in replies if reply.status == 200]
    refused = [reply for reply in replies if reply.status != 200]
    assert len(given) >= 60
    assert {(reply.status, reply.code) for reply in refused} == {(429, "rate_limited")}
    assert {reply.headers["Retry-After"] for reply in refused} == {"1"}


async def test_each_token_given_is_in_the_record(stage: Stage) -> None:
    talk = await stage.begin()
    await talk.refresh({"integration": "acme"})
    reply = await talk.api.get("/v1/audit-events?action=connection.token")
    assert talk.conversation in {one["actor"]["id"] for one in reply.json["data"]}
