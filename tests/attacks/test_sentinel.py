"""What is secret stands nowhere in clear: not in logs, errors, metrics, arguments, tables or WAL.

The real command on its own embedded PostgreSQL, made to log all it can; secrets go in through the
public API and to places where they do not belong; then everything that was left is searched.

In clear by intent, and so no sentinels: the ids of users, which are the platform's own and lead
their rows, and the names of workspaces and keys, which are for people to read in lists.
"""

import asyncio
import base64
import json
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import asyncpg
import pytest
from msgspec import Struct
from support.api import Api, Reply
from support.collector import INSTALLED, collecting
from support.process import Replica, development, short_folder
from support.sentinels import LOUD, Secrets, names_in, of_processes, rows_of
from support.visitor import Visitor, visiting

from broker import logs
from vault.bearer import generate
from vault.embedded import Embedded

ENOUGH: Final = 32 * 2**20  # far more than what lies in the sockets' buffers
Connection = Any  # asyncpg ships no types

ENDLESS: Final = {
    "the head": b"GET /v1/keys HTTP/1.1\r\nHost: keyturn\r\n",
    "the trailers": (
        b"POST /v1/keys HTTP/1.1\r\nHost: keyturn\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    ),
}
BREAKS: Final = {
    "revoke insert on vault.audit_events from keyturn_app": (
        "grant insert on vault.audit_events to keyturn_app"
    ),
    "alter table vault.users add constraint broken check (generation < 0) not valid": (
        "alter table vault.users drop constraint broken"
    ),
    "alter table vault.users rename column profile to lost": (
        "alter table vault.users rename column lost to profile"
    ),
}


class Left(Struct, frozen=True):
    """Everything that one life of the service left behind."""

    secrets: Secrets
    request_id: bytes
    clear: Secrets
    places: dict[str, list[bytes]]
    statuses: set[int]
    taken: dict[str, int]


class Planter:
    """Sends secrets where they belong, and where they do not; remembers them, and the answers."""

    def __init__(self, replica: Replica, session: aiohttp.ClientSession, operator: str) -> None:
        self.secrets: dict[str, bytes] = {"the operator's key": operator.encode()}
        self.clear: dict[str, bytes] = {}
        self.replies: list[Reply] = []
        self.request_id = generate("api_key").reveal()
        self._replica = replica
        self._nobody = Api(session, replica.base)
        self._operator = self._nobody.with_key(operator)
        assert replica.first_key
        self._api = self._nobody.with_key(self.remember("the first key", replica.first_key))

    def remember(self, name: str, secret: str) -> str:
        self.secrets[name] = secret.encode()
        return secret

    def bearer(self, place: str) -> str:
        """A key that somebody puts where no key belongs."""
        return self.remember(f"a key in {place}", generate("api_key").reveal())

    def both(self, place: str) -> str:
        """A key, and a secret that the log cannot know by its form."""
        word = self.remember(f"a word in {place}", generate("api_key").reveal()[3:40])
        return f"{self.bearer(place)}.{word}"

    async def send(
        self, method: str, path: str, *, as_operator: bool = False, **more: Any
    ) -> Reply:
        api = self._operator if as_operator else self._api
        reply = await api.call(method, path, **more)
        self.replies.append(reply)
        return reply

    async def plant(self) -> None:
        """Use the API as it is meant to be used."""
        name = "workspace-kept-in-clear"
        made = await self.send("POST", "/v1/workspaces", as_operator=True, body={"name": name})
        self.clear["a workspace's name"] = name.encode()
        self.remember("a workspace's key", made.json["api_key"])
        once = self.remember("an Idempotency-Key", generate("connect").reveal())
        body = {"name": "key-kept-in-clear", "scopes": ["mint"]}
        for _ in range(2):
            made = await self.send("POST", "/v1/keys", body=body, headers={"Idempotency-Key": once})
            if made.json["key"]:
                self.remember("a made key", made.json["key"])
        self.clear["a key's name"] = b"key-kept-in-clear"
        self.clear["a user's id"] = b"user-id-kept-in-clear"
        for user in ("user-id-kept-in-clear", "user-deleted"):
            for turn in ("first", "second"):
                profile = self.profile(f"{turn} of {user}")
                assert (await self.send("PUT", f"/v1/users/{user}", body=profile)).status == 200
        for path in (
            "/v1/users/user-id-kept-in-clear",
            "/v1/users",
            "/v1/keys",
            "/v1/audit-events",
        ):
            assert (await self.send("GET", path)).status == 200
        await self.plant_accounts()
        assert (await self.send("DELETE", "/v1/users/user-deleted")).status == 200

    async def plant_accounts(self) -> None:
        """Connect accounts: an app, what a platform brings along, and what a person types."""
        both = self.both
        urls = {"authorize_url": "https://a.example/a", "token_url": "https://a.example/t"}
        app: dict[str, object] = {"provider": "oauth2", "client_id": "x", "variables": urls}
        app["client_secret"] = both("a client secret")
        assert (await self.send("PUT", "/v1/integrations/app", body=app)).status == 201
        keys = {"provider": "api-key"}
        assert (await self.send("PUT", "/v1/integrations/keys", body=keys)).status == 201
        tokens = {name: both(f"an imported {name}") for name in ("access_token", "refresh_token")}
        for user in ("user-id-kept-in-clear", "user-deleted"):
            path = f"/v1/users/{user}/connections"
            for place, body in (("app", tokens), ("keys", {"api_key": both(f"a key of {user}")})):
                assert (await self.send("PUT", f"{path}/{place}", body=body)).status == 200
        bad = {**tokens, "scopes": [f"{both('a bad scope')} x"]}
        assert (await self.send("PUT", "/v1/users/u/connections/app", body=bad)).status == 422
        line = f'{{"user_id": "u", "access_token": "{both("a line that is cut")}'
        lines = {"Content-Type": "application/x-ndjson"}
        await self.send("POST", "/v1/connections/import", raw=line.encode(), headers=lines)
        await self.plant_conversations()
        async with visiting() as person:
            await self._connect_by_hand(person)

    async def plant_conversations(self) -> None:
        """Mint by every delivery, for somebody who stays and for somebody who does not."""
        grant = "secret__keyturn_authorization"
        account = {"base_url": "https://eleven.example", "api_key": self.both("an account's key")}
        made = await self.send("PUT", "/v1/upstreams/elevenlabs", body=account)
        assert made.status == 201
        project = {"url": "wss://livekit.example", "api_key": "public"}
        project["api_secret"] = self.both("a project's secret")
        assert (await self.send("PUT", "/v1/upstreams/livekit", body=project)).status == 201
        word = self.both("what a caller gives")
        for user in ("user-id-kept-in-clear", "user-deleted"):
            asked = {"agent_id": "a", "user_id": user, "dynamic_variables": {"topic": word}}
            for more in (
                {},
                {"runtime": "sealed"},
                {"runtime": "sealed", "delivery": "inline"},
                {"runtime": "sealed", "delivery": "handle"},
                {"runtime": "livekit", "delivery": "handle"},
            ):
                body = {"tools": "gateway"} if more.get("delivery") == "handle" else {}
                await self.send("PUT", "/v1/agents/a", body=body)
                once = {"Idempotency-Key": f"{user}-{len(self.secrets)}"}
                for turn in ("once", "again"):
                    made = await self.send(
                        "POST", "/v1/conversations", body={**asked, **more}, headers=once
                    )
                    assert made.status == 201, made.body
                    named = f"for {user}, {more}, {turn}"
                    given = made.json["dynamic_variables"].get(grant, "")
                    url, token = made.json["signed_url"], made.json["token"]
                    for what, text in (
                        ("a grant", given.removeprefix("Bearer ")),
                        ("a ticket", (url or "").rpartition("conversation_signature=")[2]),
                        ("a sealed token", token),
                    ):
                        if text:
                            self.remember(f"{what} {named}", text)
            path = f"/v1/conversations/{made.json['id']}"
            assert (await self.send("GET", path)).status == 200
            assert (await self.send("POST", f"{path}/end")).status == 200
        lost = {"token": self.bearer("a token to redeem")}
        assert (await self.send("POST", "/v1/conversations/redeem", body=lost)).status == 404

    async def _connect_by_hand(self, person: Visitor) -> None:
        both, base = self.both, self._replica.base
        body = {"user_id": "user-id-kept-in-clear", "return_url": "http://127.0.0.1/back"}
        made = await self.send(
            "POST", "/v1/connect-sessions", body={**body, "integrations": ["keys"]}
        )
        self.remember("a link", made.json["url"].rpartition("/")[2])
        page = await person.get(made.json["url"])
        refused = await person.submit(page, api_key=f"{both('a key that cannot be')}\x01")
        home = await person.submit(refused, api_key=both("a typed key"))
        code = self.remember("a code that completes", home.query["code"])
        path = f"/v1/connect-sessions/{made.json['id']}/complete"
        wrong = {"code": both("a wrong code"), "user_id": body["user_id"]}
        assert (await self.send("POST", path, body=wrong)).status == 404
        assert (await self.send("POST", path, body={**wrong, "code": code})).status == 200
        for where in (
            f"/connect/{self.bearer('a link of nobody')}",
            f"/oauth/google/callback?code={both('a code')}&state={both('a state')}",
            f"/oauth/oidc/app/callback?error={both('an error')}&state={both('another state')}",
        ):
            shown = await person.get(f"{base}{where}")
            self.replies.append(Reply(shown.status, {}, shown.text.encode()))

    def profile(self, whose: str) -> dict[str, object]:
        name = self.remember(f"the name, {whose}", f"Ada {generate('handle').reveal()}")
        digits = int.from_bytes(generate("handle").reveal_bytes()[-14:], "big") % 10**14
        phone = self.remember(f"the number, {whose}", f"+1{digits:014}"[:16])
        plan = self.remember(f"the attribute, {whose}", generate("handle").reveal())
        return {"name": name, "phone_numbers": [phone], "attributes": {"plan": plan}}

    async def misplace(self) -> None:
        """Send keys and people's data to where they do not belong."""
        both = self.both
        for method, path in (
            ("GET", f"/v1/keys?api_key={both('a query')}"),
            ("GET", f"/v1/keys?cursor={both('a cursor')}"),
            ("GET", f"/v1/keys?limit={both('a number')}"),
            ("GET", f"/v1/audit-events?action={both('an action')}"),
            ("GET", f"/v1/audit-events?user_id={both('a user filter')}"),
            ("GET", f"/v1/keys/{self.bearer('a path')}"),
            ("DELETE", f"/v1/keys/{self.bearer('a path to delete')}"),
            ("GET", f"/v1/users/{self.bearer('the path of a user')}"),
            ("GET", f"/v1/users/%7B{both('the path of no user')}"),
            ("GET", f"/{both('an unknown path')}?state={both('an unknown query')}"),
            ("PATCH", f"/v1/keys/{both('a path with another method')}"),
            ("PUT", f"/v1/workspaces/{self.bearer('the path of a workspace')}"),
        ):
            await self.send(method, path)
        good: dict[str, object] = {"name": "k", "scopes": ["mint"]}
        for body in (
            {**good, both("a field's name"): 1},
            {**good, "api_key": both("an unknown field")},
            {**good, "scopes": [both("a scope")]},
            {**good, "expires_at": both("a time")},
            {**good, "environments": [f"{both('an environment')} x"]},
            {**good, "name": [both("a list for a name")]},
            {**good, "name": f"{both('a name too long')}{'x' * 300}"},
            [both("a list")],
            both("a text"),
        ):
            assert (await self.send("POST", "/v1/keys", body=body)).status == 422
        for profile in (
            {"phone_numbers": [f"0{self.remember('a bad number', '49170' + '4711081512')}"]},
            {"attributes": {both("an attribute's name"): "x"}},
            {"attributes": {"plan": {"deep": both("a deep attribute")}}},
        ):
            assert (await self.send("PUT", "/v1/users/u", body=profile)).status == 422
        await self._misplace_raw()
        await self._misplace_in_headers()

    async def _misplace_raw(self) -> None:
        both = self.both
        for raw in (
            f'{{"name": "k", "scopes": ["{both("a body that is cut")}"',
            f'{{"name": "{both("a body with a control character")}\x01"}}',
            both("a body that is no JSON"),
            json.dumps({"name": both("a body too large"), "scopes": ["x" * 400_000]}),
        ):
            await self.send("POST", "/v1/keys", raw=raw.encode())
        form = f"client_secret={both('a form')}".encode()
        media = {"Content-Type": "application/x-www-form-urlencoded"}
        await self.send("POST", "/v1/keys", raw=form, headers=media)
        await self.send(
            "POST", "/v1/keys", body={}, headers={"Content-Type": f"text/{both('a media type')}"}
        )
        for line in (
            f"GET /?token={both('a bad request line')} HTTP/9.9\r\n\r\n",
            f"{both('a method')} / HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET / HTTP/1.1\r\nHost: x\r\nBad Header {both('a bad header')}: x\r\n\r\n",
            f"GET / HTTP/1.1\r\nHost: {both('a host')}\r\nConnection: close\r\n\r\n",
            (
                f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: {both('an upgrade')}\r\n"
                "Connection: upgrade, close\r\n\r\n"
            ),
            f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {both('a length')}\r\n\r\n",
        ):
            await self._raw(line.encode())

    async def _misplace_in_headers(self) -> None:
        both = self.both
        basic = base64.b64encode(f"user:{both('basic')}".encode()).decode()
        for name, value in (
            ("Cookie", f"session={both('a cookie')}"),
            ("Referer", f"https://example.com/?code={both('a referer')}"),
            ("User-Agent", both("a user agent")),
            ("X-Forwarded-For", both("a forwarded address")),
            ("Idempotency-Key", f"{both('a bad Idempotency-Key')} x"),
            ("Idempotency-Key", both("a long Idempotency-Key") * 10),
            ("Authorization", f"Basic {basic}"),
            ("Authorization", f"Token {both('another scheme')}"),
            ("Authorization", f"Bearer {both('a key of nobody')}"),
            ("xi-api-key", both("the other header")),
            ("X-Request-Id", f"{both('a bad X-Request-Id')}!"),
        ):
            body = {"name": "k", "scopes": ["mint"]}
            await self.send("POST", "/v1/keys", body=body, headers={name: value})

    async def misname(self) -> None:
        """Send a key as the id of a request, which is echoed, logged and written down."""
        for path in ("/v1/keys", "/v1/nowhere"):
            body = {"name": "k", "scopes": ["mint"]}
            await self.send("POST", path, body=body, headers={"X-Request-Id": self.request_id})

    async def _raw(self, head: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._replica.port)
        writer.write(head)
        async with asyncio.timeout(60):
            answer = await reader.read()
        writer.transport.abort()
        self.replies.append(Reply(400, {}, answer))

    async def send_headers_without_end(self, before: bytes) -> int:
        """How many bytes of them are taken in from somebody without a key."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._replica.port)
        writer.write(before)
        sent = 0
        try:
            async with asyncio.timeout(120):
                while sent < ENOUGH and not reader.at_eof():
                    writer.write(b"X-More: " + b"x" * 65_000 + b"\r\n")
                    await writer.drain()
                    sent += 65_000
                    await asyncio.sleep(0)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
        return sent

    async def break_the_database(self, admin: Connection) -> None:
        """Make the database refuse what it is sent, in the ways that make it quote it."""
        for number, (broken, mended) in enumerate(BREAKS.items()):
            await admin.execute(broken)
            profile = self.profile(f"broken {number}")
            for user in ("user-id-kept-in-clear", f"new-{number}"):
                reply = await self.send("PUT", f"/v1/users/{user}", body=profile)
                assert reply.status in {409, 500}
            once = self.remember(f"a broken Idempotency-Key {number}", generate("connect").reveal())
            body = {"name": "k", "scopes": ["mint"]}
            await self.send("POST", "/v1/keys", body=body, headers={"Idempotency-Key": once})
            await admin.execute(mended)

    async def metrics(self) -> bytes:
        return (await self._nobody.get("/metrics")).body


@pytest.fixture(scope="module")
async def left() -> AsyncIterator[Left]:
    """One life of the service, from its first start to its end."""
    operator = generate("operator").reveal()
    with short_folder() as folder, collecting() as collector:
        more = {"operator_key": operator, "log_level": "debug"}
        with development(folder, environ=collector.environ, **more) as replica:
            await replica.ready()
            embedded = Embedded(folder / "data" / "postgres")
            admin = await asyncpg.connect(embedded.dsn().reveal())
            for statement in LOUD:
                await admin.execute(statement)
            async with aiohttp.ClientSession() as session:
                planter = Planter(replica, session, operator)
                await planter.plant()
                await planter.misplace()
                await planter.misname()
                taken = {
                    name: await planter.send_headers_without_end(before)
                    for name, before in ENDLESS.items()
                }
                await planter.break_the_database(admin)
                places = {"the metrics": [await planter.metrics()]}
            _remember_keys(planter, folder, embedded)
            places["the processes' arguments"] = of_processes("cmdline")
            places["the database's environment"] = of_processes("environ", "postgres")
            places["the tables"] = await rows_of(admin)
            await admin.execute("checkpoint")
            await admin.execute("select pg_switch_wal()")
            await admin.close()
            assert await replica.stop() == 0
        places["the traces"] = collector.bodies
        shown = replica.stdout.replace(planter.secrets["the first key"].decode(), "", 1)
        places["what is printed"] = [shown.encode()]
        places["our log"] = [replica.stderr.encode()]
        places["the database's log"] = [
            path.read_bytes() for path in embedded.home.glob("server.log*")
        ]
        places["the database's files"] = [
            path.read_bytes() for path in embedded.data.rglob("*") if path.is_file()
        ]
        places["errors"] = [
            f"{sorted(reply.headers.items())}".encode() + reply.body
            for reply in planter.replies
            if reply.status >= 400
        ]
        statuses = {reply.status for reply in planter.replies}
        yield Left(
            planter.secrets, planter.request_id.encode(), planter.clear, places, statuses, taken
        )


def _remember_keys(planter: Planter, folder: Path, embedded: Embedded) -> None:
    line = (folder / "data" / "root.key").read_text().splitlines()[-1]
    planter.remember("the root key, in base64", line)
    planter.secrets["the root key"] = base64.b64decode(line)
    for role in ("postgres", "keyturn_app"):
        planter.remember(f"the password of {role}", embedded.password(role).reveal())


# The search


def _gzip(secret: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(b"before " + secret + b" after") + packer.flush()


FORMS: Final = {
    "as it is": lambda it: it,
    "in base64": base64.b64encode,
    "in base64, second offset": lambda it: base64.b64encode(b"x" + it + b"yz"),
    "in base64, third offset": lambda it: base64.b64encode(b"xy" + it + b"z"),
    "in base64 for URLs": lambda it: base64.urlsafe_b64encode(it + b"\xff\xff"),
    "in hexadecimal": lambda it: it.hex().encode(),
    "in capital hexadecimal": lambda it: it.hex().upper().encode(),
    "in UTF-16": lambda it: it.decode("latin-1").encode("utf-16-le"),
    "in UTF-16, the other way": lambda it: it.decode("latin-1").encode("utf-16-be"),
    "compressed": _gzip,
    "compressed base64": lambda it: _gzip(base64.b64encode(it)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "secret", [b"kt_" + b"0Az?>~" * 8, b"\xfb\xff\xbe\x01" * 8, b"x" * 31, b"y" * 32]
)
def test_the_search_finds_every_form(form: str, secret: bytes) -> None:
    written: bytes = FORMS[form](secret)  # type: ignore[no-untyped-call] # some are the library's
    assert names_in(b"before" + written + b"\n after", {"it": secret, "other": b"z" * 9}) == {"it"}


def test_the_search_looks_at_the_right_things(left: Left) -> None:
    assert len(left.secrets) > 60
    assert {400, 401, 404, 413, 422, 500} <= left.statuses
    for place in ("the tables", "the database's files", "the database's log"):
        found = set().union(*(names_in(one, left.clear) for one in left.places[place]))
        assert found == set(left.clear), place
    assert any(b"keyturn_http_requests_total{" in one for one in left.places["the metrics"])
    assert any(b"PUT /v1/users/{user_id}" in one for one in left.places["the traces"]) == INSTALLED
    assert any(b"broker.cli" in one for one in left.places["the processes' arguments"])
    assert left.places["the database's environment"]
    assert any(b'"unexpected_error"' in one for one in left.places["our log"])
    assert len(left.places["errors"]) > 40
    log = b"".join(left.places["the database's log"]).lower()
    for told in (b"permission denied", b"violates check constraint", b"does not exist"):
        assert told in log, told
    assert b"parameters: $1 = " in log


PLACES: Final = (
    *("what is printed", "our log", "errors", "the metrics", "the processes' arguments"),
    "the traces",
    *("the database's environment", "the database's log", "the tables", "the database's files"),
)


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_stands_in(left: Left, place: str) -> None:
    assert set().union(*(names_in(one, left.secrets) for one in left.places[place])) == set()


@pytest.mark.parametrize("place", PLACES)
def test_a_key_that_is_sent_as_the_requests_id_does_not_stand_in(left: Left, place: str) -> None:
    secret = {"the key": left.request_id}
    assert not any(names_in(one, secret) for one in left.places[place])


def test_what_an_exception_says_and_what_lay_around_it_is_not_logged() -> None:
    secret, word = generate("api_key").reveal(), generate("api_key").reveal()[3:]

    def fail() -> None:
        held = f"{secret} {word}"
        raise KeyError(held) from ValueError(held)

    with pytest.raises(KeyError) as failed:
        fail()
    event = {"event": f"Bearer {secret}", "deep": [{"note": secret, "token": word}], "key": secret}
    said = logs.exception_without_values(None, "error", {**event, "exc_info": failed.value})
    text = str(logs.redact(None, "error", said))
    assert "KeyError" in text
    assert "test_sentinel.py" in text
    assert names_in(text.encode(), {"key": secret.encode(), "word": word.encode()}) == set()


@pytest.mark.parametrize("part", ENDLESS)
def test_headers_that_never_end_are_not_read_for_ever(left: Left, part: str) -> None:
    assert left.taken[part] < ENOUGH // 2
