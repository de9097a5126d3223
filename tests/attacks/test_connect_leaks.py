"""What travels while people connect stands nowhere in clear, whatever goes wrong on the way.

The real command at log level debug, on a database that logs all it can, and a provider that writes
down what it is told: codes, states, verifiers, tokens, links and client secrets go through every
ending there is; then everything that was left behind is searched for each of them.
"""

import asyncio
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any, Final, get_args

import aiohttp
import asyncpg
import pytest
from msgspec import Struct
from support.api import Api, Reply
from support.collector import INSTALLED, collecting
from support.journey import altered, arrive, consent
from support.process import COMMAND, PATIENCE, Replica, development, environment, short_folder
from support.sandbox import Provider, providing
from support.sentinels import LOUD, Connection, Secrets, names_in, of_processes, rows_of
from support.visitor import Shown, Visitor, visiting

from broker.sandbox import Client, Consent, Faults, Issuing, Person, Sandbox
from broker.sandbox.evil import Twist
from broker.sandbox.knobs import IdTokens
from vault.bearer import generate
from vault.embedded import Embedded

HOME: Final = "http://127.0.0.1:9/back"
WITH_SPECIALS: Final = '+/%&= "'
# How the database is made to refuse, and how it is mended.
BREAKS: Final = {
    **{
        f"alter table vault.{table} add constraint broken check (false) not valid": (
            f"alter table vault.{table} drop constraint broken"
        )
        for table in ("connections", "connection_tokens", "connect_flows")
    },
    "revoke insert on vault.audit_events from keyturn_app": (
        "grant insert on vault.audit_events to keyturn_app"
    ),
    "alter table vault.connect_flows rename column sealed to lost": (
        "alter table vault.connect_flows rename column lost to sealed"
    ),
}


def word() -> str:
    """Random, and of no form by which a log could know it."""
    return generate("api_key").reveal()[3:43]


class Overhearing(Sandbox):
    """A provider that writes down each value that it is told, and each token that it gives."""

    def __init__(self) -> None:
        self.heard: set[str] = set()
        super().__init__()

    def fingerprint(self, value: str) -> str:
        self.heard.add(value)
        return super().fingerprint(value)


class Left(Struct, frozen=True):
    """Everything that was left behind."""

    secrets: Secrets
    places: dict[str, list[bytes]]
    titles: set[str]


class Life:
    """One life of a service, with what was secret in it."""

    def __init__(self, replica: Replica, provider: Provider, api: Api) -> None:
        self.secrets: dict[str, str] = {}
        self.replies: list[Reply] = []
        self.titles: set[str] = set()
        self.printed: list[bytes] = []
        self.arguments: list[bytes] = []
        self._replica = replica
        self._provider = provider
        self._api = api
        self._users = 0

    def remember(self, name: str, secret: str) -> str:
        self.secrets[name] = secret
        return secret

    async def send(self, method: str, path: str, body: Any = None, **more: Any) -> Reply:
        reply = await self._api.call(method, path, body=body, **more)
        self.replies.append(reply)
        return reply

    async def set_up(self) -> None:
        """An app, and an account whose names are secret, too."""
        secret = self.remember("a client secret", word() + WITH_SPECIALS)
        callback = f"{self._replica.base}/oauth/oidc/acme/callback"
        self._provider.state.clients["app"] = Client(secret=secret, redirect_uris=[callback])
        email = self.remember("an account's address", f"{word()}@example.com")
        person = Person(name=self.remember("an account's name", word()), email=email, number=1)
        self._provider.state.people = {"ada": person}
        self._provider.state.consent = Consent(auto="allow")
        claim = {"note": self.remember("a claim of an ID token", word())}
        self._provider.state.issuing = Issuing(id_token=IdTokens(claims=claim))
        put = {
            "provider": "oidc",
            "client_id": "app",
            "client_secret": secret,
            "scopes": ["openid", "email", "offline_access"],
            "variables": {"issuer": self._provider.base},
        }
        assert (await self.send("PUT", "/v1/integrations/acme", put)).status == 201

    async def invite(self, **more: Any) -> tuple[str, str, str]:
        """The user, the session and the link."""
        self._users += 1
        user = f"user-{self._users}"
        made = await self.send("POST", "/v1/connect-sessions", {"user_id": user, **more})
        assert made.status == 201, made.body
        url: str = made.json["url"]
        self.remember(f"the link of {user}", url.rpartition("/")[2])
        return user, made.json["id"], url

    def note(self, shown: Shown) -> Shown:
        """Remember what a page or a redirect carried."""
        self.titles.add(shown.title)
        for name, value in {**shown.query, **shown.fields}.items():
            if name in ("code", "state", "nonce", "_csrf", "_state"):
                self.remember(f"{name} {len(self.secrets)}", value)
        for cookie in shown.headers.getall("Set-Cookie", []):
            self.remember(f"cookie {len(self.secrets)}", cookie.partition("=")[2].split(";")[0])
        return shown

    async def journey(self, visitor: Visitor, **more: Any) -> tuple[str, str, Shown, Shown]:
        """The user, the session, the provider's answer, and the page after it."""
        user, session_id, link = await self.invite(**more)
        page = self.note(await visitor.get(link))
        away = self.note(await visitor.submit(page))
        back = self.note(await visitor.follow(away))
        return user, session_id, back, self.note(await visitor.follow(back))

    async def go_well(self, visitor: Visitor) -> None:
        """By the page, by the platform, back and forth, and given back."""
        user, _, _, confirmation = await self.journey(visitor)
        self.note(await visitor.submit(confirmation, _answer="yes"))
        user_too, session_id, _, home = await self.journey(visitor, return_url=HOME)
        path = f"/v1/connect-sessions/{session_id}/complete"
        code = home.query["code"]
        for wrong in (
            {"code": word(), "user_id": user_too},
            {"code": code, "user_id": f"{code} x"},
            {"code": code * 9, "user_id": user_too},
            {"code": [code], "user_id": user_too},
            {"code": code, "user_id": user_too, code: 1},
        ):
            assert (await self.send("POST", path, wrong)).status in (404, 422)
        done = await self.send("POST", path, {"code": code, "user_id": user_too})
        assert done.status == 200
        again = await self.send("POST", path, {"code": code, "user_id": user_too})
        assert again.status in (404, 409)
        await self.send("GET", f"/v1/users/{user}/connections")
        assert (await self.send("DELETE", f"/v1/connections/{done.json['id']}")).status == 200
        self._provider.misbehave(Faults(path="/oauth/revoke", status=500, body=self.echo()))
        assert (await self.send("DELETE", f"/v1/users/{user}")).status == 200
        self._provider.misbehave(None)

    def echo(self) -> str:
        """What a server says that quotes what it was sent."""
        return f'{{"error":"invalid_grant","error_description":"{self.remember_echo()}"}}'

    def remember_echo(self) -> str:
        return self.remember(f"what a provider wrote {len(self.secrets)}", word())

    async def go_wrong(self, visitor: Visitor) -> None:
        """Denied, failed, broken off, answered by somebody evil."""
        faults = [Faults(status=status, body=self.echo()) for status in (200, 400, 401, 429, 500)]
        faults += [Faults(status=200, body=self.remember_echo(), content_type="text/html")]
        faults += [Faults(drop="before"), Faults(drop="after"), Faults(answer="truncated")]
        faults += [Faults(twist=twist) for twist in get_args(Twist)]
        faults += [
            Faults(path="/oauth/userinfo", status=status, body=self.echo()) for status in (200, 500)
        ]
        for fault in faults:
            self._provider.misbehave(fault)
            _, _, _, shown = await self.journey(visitor)
            if shown.title == "Is this you?":
                self.note(await visitor.submit(shown, _answer="no"))
        self._provider.misbehave(None)
        for changes in (
            {"error": "access_denied", "error_description": self.remember_echo()},
            {"error": self.remember_echo(), "code": None},
            {"iss": f"https://{self.remember_echo()}.example"},
            {"code": self.remember_echo()},
        ):
            _, _, link = await self.invite()
            back = self.note(await consent(visitor, link))
            self.note(await visitor.get(altered(back.location, **changes)))
            self.note(await visitor.follow(back))
            async with visiting() as stranger:
                self.note(await stranger.follow(back))

    async def misplace(self, visitor: Visitor) -> None:
        """Put them where they do not belong; but not where an id does, which is in clear."""
        _, _, link = await self.invite()
        back = self.note(await consent(visitor, link))
        code, state, bearer = back.query["code"], back.query["state"], link.rpartition("/")[2]
        base = self._replica.base
        for path in (
            f"/v1/connections?cursor={code}",
            f"/v1/connections?integration={state}",
            f"/v1/connections/{bearer}?state={state}",
            f"/v1/users/%7B{code}/connections",
            f"/v1/connect-sessions/cs_1/complete?code={code}",
        ):
            await self.send("GET", path)
            await self.send("POST", path, {"code": code, "user_id": state})
        await self.send("GET", "/v1/keys", headers={"Authorization": f"Bearer {bearer}"})
        for url in (f"/connect/{code}", f"/connect/{bearer}/{state}", f"/oauth/{code}/callback"):
            self.note(await visitor.get(base + url))
            self.note(await visitor.post(base + url, {"code": code, "state": state}))
        token = self.remember("an imported token", word())
        refresh = self.remember("an imported refresh token", word())
        good = {"access_token": token, "refresh_token": refresh}
        for body in (good, {**good, "verify": True}, {**good, "x": 1}, {"access_token": [token]}):
            await self.send("PUT", "/v1/users/imported/connections/acme", body)
        lines = f'{{"user_id":"x","integration":"acme","access_token":"{token}",}}\n{token}\n'
        await self.send("POST", "/v1/connections/import", raw=lines.encode())

    async def break_the_database(self, visitor: Visitor, admin: Connection) -> None:
        """Let the database refuse, at each step, what it then quotes."""
        for broken, mended in BREAKS.items():
            _, _, link = await self.invite()
            page = self.note(await visitor.get(link))
            confirmation = await arrive(visitor, (await self.invite())[2])
            _, _, other = await self.invite()
            back = self.note(await consent(visitor, other))
            await admin.execute(broken)
            for shown in (
                await visitor.submit(page),
                await visitor.follow(back),
                await visitor.submit(confirmation, _answer="yes"),
            ):
                self.note(shown)
            await admin.execute(mended)

    async def use_the_command(self, folder: Path) -> None:
        """What an operator does at a terminal; the arguments of all processes are watched."""
        env = environment(
            mode="development",
            data_dir=folder / "data",
            egress_allow="127.0.0.1",
            log_level="debug",
        )
        secret_file = folder / "client-secret"
        secret_file.write_text(self.secrets["a client secret"])
        put = (
            '{"provider":"oidc","client_id":"app","variables":{"issuer":"'
            f'{self._provider.base}"}}}}'
        )
        for words, stdin in (
            (("integration", "put", "acme2", "-", "--client-secret-file", str(secret_file)), put),
            (("integration", "check", "acme"), ""),
            (("integration", "put", "bad", "-"), f'{{"client_secret": "{word()}", "x": 1}}'),
        ):
            running = await asyncio.create_subprocess_exec(
                *(*COMMAND, *words), env=env, cwd="/", stdin=PIPE, stdout=PIPE, stderr=PIPE
            )
            # It is there, and waits for what is said to it or has only just begun.
            self.arguments += of_processes("cmdline", "python")
            ending = asyncio.wait_for(running.communicate(stdin.encode()), PATIENCE)
            ended = asyncio.create_task(ending)
            while not ended.done():
                self.arguments += of_processes("cmdline", "python")
                await asyncio.sleep(0.05)
            self.printed.append(b"".join(ended.result()))


@pytest.fixture(scope="module")
async def left() -> Left:
    state = Overhearing()
    places: dict[str, list[bytes]] = {}
    with short_folder() as folder, collecting() as collector:
        traced = collector.environ
        with development(
            folder, environ=traced, log_level="debug", egress_allow="127.0.0.1"
        ) as replica:
            await replica.ready()
            began = time.time()
            embedded = Embedded(folder / "data" / "postgres")
            admin = await asyncpg.connect(embedded.dsn().reveal())
            for statement in LOUD:
                await admin.execute(statement)
            async with (
                providing(state) as provider,
                visiting() as visitor,
                aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
            ):
                life = Life(replica, provider, Api(session, replica.base, replica.first_key))
                await life.set_up()
                await life.go_well(visitor)
                await life.go_wrong(visitor)
                await life.misplace(visitor)
                await life.break_the_database(visitor, admin)
                await life.use_the_command(folder)
                record = await life.send("GET", "/v1/audit-events?limit=100")
                places["the record"] = [record.body]
                places["the metrics"] = [(await Api(session, replica.base).get("/metrics")).body]
            places["the processes' arguments"] = [*{*life.arguments, *of_processes("cmdline")}]
            places["the tables"] = await rows_of(admin)
            await admin.execute("checkpoint")
            await admin.close()
            assert await replica.stop() == 0
        places["the traces"] = collector.bodies
        places["what is printed"] = [replica.stdout.encode(), *life.printed]
        places["our log"] = [replica.stderr.encode()]
        places["the database's log"] = [
            one.read_bytes() for one in embedded.home.glob("server.log*")
        ]
        # What nobody has written to since the start cannot hold what came later.
        files = [
            one
            for one in embedded.data.rglob("*")
            if one.is_file() and one.stat().st_mtime >= began
        ]
        places["the database's files"] = [one.read_bytes() for one in files]
        errors = [one for one in life.replies if one.status >= 400]
        places["errors"] = [f"{sorted(one.headers.items())}".encode() + one.body for one in errors]
    return Left(_secrets(life, state), places, life.titles)


def _secrets(life: Life, state: Overhearing) -> dict[str, bytes]:
    """What was remembered, and what the provider heard or gave that nobody could know."""
    once = {text: name for name, text in life.secrets.items() if len(text) >= 20}
    found = {name: text.encode() for text, name in once.items()}
    plain = {state.people["ada"].name, "authorization_code", "refresh_token"}
    for number, text in enumerate(sorted(state.heard)):
        is_random = (
            len(text) >= 40 and not text.startswith(("http", "Basic", "{")) and " " not in text
        )
        if is_random and text not in plain and text not in once and text.isascii():
            found[f"heard {number}"] = text.encode()
    return found


PLACES: Final = (
    *("what is printed", "our log", "errors", "the record", "the metrics", "the tables"),
    *("the processes' arguments", "the database's log", "the database's files"),
    *(["the traces"] if INSTALLED else []),
)


@pytest.mark.parametrize("place", PLACES)
def test_nothing_that_travels_while_people_connect_stands_in(left: Left, place: str) -> None:
    assert left.places[place]
    assert set().union(*(names_in(one, left.secrets) for one in left.places[place])) == set()


def test_the_journeys_went_where_they_should(left: Left) -> None:
    assert {
        "Your account is connected",
        "Nothing was connected",
        "That did not work",
        "Please finish where you began",
        "This link no longer works",
        "Please try again in a moment",
    } <= left.titles
    assert len(left.secrets) > 150
    assert any(b"call provider" in one for one in left.places["the traces"]) == INSTALLED
    assert sum(name.startswith("heard") for name in left.secrets) > 60
    log = b"".join(left.places["our log"])
    assert b'"unexpected_error"' in log
    told = b"".join(left.places["the database's log"])
    assert b"violates check constraint" in told
    assert b"parameters: $1 = " in told.lower()
    assert any(b"--client-secret-file" in one for one in left.places["the processes' arguments"])
