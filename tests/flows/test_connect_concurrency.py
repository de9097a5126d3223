"""Hundreds of people connect at once: nobody is lost, doubled, or given what is another's.

Two replicas serve them, and a consent that began at one may end at the other. Every token that is
held in the end is presented to the provider, user by user, and compared with what the provider
wrote down when it issued it: to which account, and to which app.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from conftest import MakeTenant
from msgspec import Struct
from support.api import Api, Reply
from support.connecting import SECRET, invite
from support.journey import consent
from support.ports import free_port
from support.process import Replica, environment
from support.sandbox import Provider, providing
from support.visitor import Shown, Visitor, visiting

from broker.sandbox import Client, Consent, Event, Person
from vault.embedded import Embedded

FEW, MANY = 200, 1_000
WORKSPACES = 4
AT_ONCE = 50
RACES = 10
RACERS = 6
HOME = "http://127.0.0.1:9/back"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as found:
        found.state.consent = Consent(auto="allow")
        yield found


@pytest.fixture
async def wire() -> AsyncIterator[aiohttp.BaseConnector]:
    """Connections that all browsers share, left alone long before the server closes them."""
    async with aiohttp.TCPConnector(limit=0, keepalive_timeout=1) as found:
        yield found


@pytest.fixture
async def replicas(
    migrated: Embedded, root_key_file: Path, tmp_path: Path
) -> AsyncIterator[list[Replica]]:
    """Two processes that people reach under one address."""
    ports = [free_port(), free_port()]
    shared = environment(
        mode="development",
        kek=root_key_file.as_uri(),
        database_url=migrated.dsn("keyturn_app").reveal(),
        egress_allow="127.0.0.1",
        log_level="warning",
        public_url=f"http://127.0.0.1:{ports[0]}",
    )
    started = [Replica(tmp_path, {**shared, "KEYTURN_PORT": str(port)}) for port in ports]
    try:
        yield [await replica.ready() for replica in started]
    finally:
        for replica in started:
            replica.kill()


@pytest.fixture
async def api(wire: aiohttp.BaseConnector, replicas: list[Replica]) -> AsyncIterator[Api]:
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(
        connector=wire, connector_owner=False, cookie_jar=jar
    ) as session:
        yield Api(session, replicas[0].base)


class Platform(Struct, frozen=True):
    """A workspace with an app of its own, and its users. Their accounts bear other names."""

    api: Api
    other_replica: str
    client_id: str
    users: tuple[str, ...]

    def account(self, user: str) -> str:
        return f"{user}-of-{self.client_id}"


async def found_platform(
    api: Api, other_replica: str, provider: Provider, number: int, people: int
) -> Platform:
    # The users of all workspaces bear the same names: nothing but the workspace tells them apart.
    users = tuple(f"user-{one:04}" for one in range(people))
    platform = Platform(api, other_replica, f"app-{number}", users)
    provider.state.clients[platform.client_id] = Client(
        secret=SECRET, redirect_uris=[f"{api.base}/oauth/oidc/acme/callback"]
    )
    for user in users:
        account = platform.account(user)
        provider.state.people[account] = Person(name=user, email=f"{account}@x.example", number=1)
    put = await api.put(
        "/v1/integrations/acme",
        {
            "provider": "oidc",
            "client_id": platform.client_id,
            "client_secret": SECRET,
            "scopes": ["openid", "email", "offline_access"],
            "variables": {"issuer": provider.base},
        },
    )
    assert put.status == 201, put.body
    return platform


async def come_home(platform: Platform, visitor: Visitor, user: str) -> None:
    """Connect, by the page or by the platform, in turn; the way back is by the other replica."""
    confirms_here = int(user[-1]) % 2 == 0
    more = {} if confirms_here else {"return_url": HOME}
    session = await invite(platform.api, user, **more)
    back = await consent(visitor, session["url"], platform.account(user))
    shown = await visitor.get(back.location.replace(platform.api.base, platform.other_replica))
    if confirms_here:
        end = await visitor.submit(shown, _answer="yes")
        assert end.title == "Your account is connected", end.title
        return
    reply = await complete(platform, session["id"], shown, user)
    assert reply.status == 200, reply.body


async def complete(platform: Platform, session_id: str, home: Shown, user: str) -> Reply:
    path = f"/v1/connect-sessions/{session_id}/complete"
    return await platform.api.post(path, {"code": home.query["code"], "user_id": user})


async def everybody_comes_home(platforms: list[Platform], wire: aiohttp.BaseConnector) -> None:
    turnstile = asyncio.Semaphore(AT_ONCE)

    async def one(platform: Platform, user: str) -> None:
        async with turnstile, visiting(wire) as visitor:
            await come_home(platform, visitor, user)

    async with asyncio.TaskGroup() as group:
        # Neighbours in time are of different workspaces and bear the same name.
        for user in platforms[0].users:
            for platform in platforms:
                group.create_task(one(platform, user))


async def connected(platform: Platform) -> dict[str, str]:
    """The id of each user's connection, by what the API lists."""
    found: dict[str, str] = {}
    cursor = ""
    while True:
        page = await platform.api.get(f"/v1/connections?limit=100{cursor}")
        for one in page.json["data"]:
            assert (one["state"], one["generation"]) == ("active", 1)
            assert one["user_id"] not in found
            found[one["user_id"]] = one["id"]
        if page.json["next_cursor"] is None:
            return found
        cursor = f"&cursor={page.json['next_cursor']}"


def issued(events: list[Event]) -> dict[tuple[str, str], set[str]]:
    """What was issued to each account at each app, by fingerprint."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for event in events:
        if event.what == "issued" and event.kind in ("access", "refresh"):
            found[event.client, event.account].add(event.token)
    return found


async def give_back(platform: Platform, provider: Provider, connections: dict[str, str]) -> None:
    """Delete them one after the other: what is given back is what was held, and whose it was."""
    told = issued(provider.state.history.events())
    client = provider.state.fingerprint(platform.client_id)
    before = 0
    for user, connection_id in connections.items():
        reply = await platform.api.delete(f"/v1/connections/{connection_id}")
        assert reply.json == {"id": connection_id, "revoked": "revoked"}
        presented = given_back(provider, client)
        new, before = set(presented[before:]), len(presented)
        assert new, user
        assert new <= told[platform.client_id, platform.account(user)], user


def given_back(provider: Provider, client: str = "") -> list[str]:
    """The tokens that were given back, by fingerprint, in order."""
    seen = [one.fields for one in provider.state.requests if one.path == "/oauth/revoke"]
    return [one["token"] for one in seen if client in ("", one["client_id"])]


@pytest.mark.parametrize("people", [FEW, pytest.param(MANY, marks=pytest.mark.soak)])
async def test_hundreds_of_people_of_several_workspaces_connect_at_once(
    make_tenant: MakeTenant,
    api: Api,
    replicas: list[Replica],
    wire: aiohttp.BaseConnector,
    provider: Provider,
    people: int,
) -> None:
    platforms = [
        await found_platform(
            api.with_key((await make_tenant()).key),
            replicas[1].base,
            provider,
            number,
            people // WORKSPACES,
        )
        for number in range(WORKSPACES)
    ]
    await everybody_comes_home(platforms, wire)
    history = provider.state.history.events()
    assert Counter(one.kind for one in history if one.what == "issued") == {
        "code": people,
        "access": people,
        "refresh": people,
    }
    assert not [one for one in history if one.what in ("unknown", "refused", "ended", "unsent")]
    every = [await connected(platform) for platform in platforms]
    for platform, connections in zip(platforms, every, strict=True):
        assert connections.keys() == set(platform.users)
    async with asyncio.TaskGroup() as group:
        for platform, connections in zip(platforms, every, strict=True):
            group.create_task(give_back(platform, provider, connections))
    presented = given_back(provider)
    assert len(set(presented)) == len(presented)
    ended = {one.family for one in provider.state.history.events() if one.what == "ended"}
    assert len(ended) == people
    assert not [log for log in (one.stderr for one in replicas) if "error" in log]


async def test_a_consent_that_many_requests_end_at_two_replicas_becomes_one_connection(
    make_tenant: MakeTenant,
    api: Api,
    replicas: list[Replica],
    wire: aiohttp.BaseConnector,
    provider: Provider,
) -> None:
    keyed = api.with_key((await make_tenant()).key)
    platform = await found_platform(keyed, replicas[1].base, provider, 0, RACES)
    elsewhere = msgspec.structs.replace(platform, api=keyed.at(replicas[1].base))
    for user in platform.users:
        async with visiting(wire) as visitor:
            session = await invite(keyed, user, return_url=HOME)
            back = await consent(visitor, session["url"], platform.account(user))
            places = [back.location, back.location.replace(keyed.base, replicas[1].base)]
            shown = await asyncio.gather(*(visitor.get(place) for place in places * RACERS))
            [home] = [one for one in shown if one.status == 303]
            racing = [
                complete(one, session["id"], home, user) for one in (platform, elsewhere) * RACERS
            ]
            replies = Counter(one.status for one in await asyncio.gather(*racing))
        assert replies[200] == 1
        assert replies.keys() <= {200, 404, 409}
    assert (await connected(platform)).keys() == set(platform.users)
    history = provider.state.history.events()
    assert Counter(one.kind for one in history if one.what == "issued")["access"] == RACES
    assert Counter(one.kind for one in history if one.what == "used")["code"] == RACES
