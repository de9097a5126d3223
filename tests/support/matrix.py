"""The attack matrix: each route, by each caller, on each kind of id, and what must hold then.

* Two workspaces of one shape, each full of its own sentinels. What one caller may not see does
  not exist for it: a foreign id is answered exactly like one that never was.
* ``attacks.py`` says how each route is called. What callers of one side ever send on to somebody
  else's server is looked through for the other side's secrets, too.
* Each wall is also tried alone: without row-level security, and without the statements' own
  conditions.
"""

import base64
import json
import re
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Literal

import aiohttp
import asyncpg
from litestar import Litestar
from litestar.routes import HTTPRoute, WebSocketRoute
from msgspec import Struct

from broker.migrations import PARTS
from broker.settings import Settings
from support.api import Api, Reply, running
from support.attacks import HELD, NAMED, NOT_ATTACKED, PAGES, Attack, Kind
from support.loopback import Listener, listening, saying
from vault.access import RULES, Action
from vault.bearer import generate
from vault.database import Database
from vault.egress import Egress, parse_allow
from vault.embedded import Embedded
from vault.kms import RootKey
from vault.migrations import Login, migrate
from vault.model import SCOPES, Scope, new_id
from vault.secret import Secret
from vault.sql import every_query
from vault.vault import Vault

Place = Literal["own", "shared", "foreign", "missing"]
Walls = Literal["both", "conditions", "row_security"]
WALLS: Final[tuple[Walls, ...]] = ("both", "conditions", "row_security")

# Where this statement runs, row-level security shows the operator's directory, by intent.
DIRECTORY: Final = {"vault.workspaces.get"}
# What the operator asks from outside of every workspace.
OUTSIDE: Final[set[Action]] = {
    *("workspace.create", "workspace.list", "workspace.read", "workspace.delete"),
    *("provider.list", "provider.read"),
}
PREFIXES: Final[dict[Kind, str]] = {
    "key": "key",
    "workspace": "ws",
    "event": "evt",
    "variable": "envvar",
    "secret": "secret",
    "auth_connection": "authconn",
    "connection": "conn",
    "connect_session": "cs",
    "event_endpoint": "ep",
    "news": "evt",
    "conversation": "kcv",
}
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"

_ID_FIELDS: Final[dict[Kind, str]] = {"secret": "secret_id", "news": "event_id"}
LINES: Final = {"Content-Type": "application/x-ndjson"}

Scopes = tuple[Scope, ...]


def scopes_of(action: Action | None) -> Scopes:
    """The scopes any one of which opens a route."""
    rule = RULES[action] if action else RULES["key.list"]
    return (rule.scope, *rule.others) if rule.scope else ("manage",)


def actions_of(app: Litestar) -> dict[str, Action | None]:
    """Every route of the application, with the action that its guard asks about."""
    found: dict[str, Action | None] = {}
    for route in app.routes:
        if isinstance(route, WebSocketRoute):
            continue  # opened by a ticket and by no key: tests/broker/test_relay.py
        assert isinstance(route, HTTPRoute), f"{route.path}: the matrix knows HTTP only"
        for handler in route.route_handlers:
            guards = [getattr(one, "action", None) for one in handler.resolve_guards()]
            for method in handler.http_methods - {"OPTIONS"}:
                found[f"{method} {route.path}"] = guards[0] if guards else None
    return {
        name: action for name, action in found.items() if name not in NOT_ATTACKED | PAGES | HELD
    }


def inputs_of(app: Litestar) -> dict[str, set[str]]:
    """What each route takes beside its path: query and header parameters, fields of its body."""
    document = app.openapi_schema.to_schema()
    found: dict[str, set[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            taken = {one["name"] for one in operation.get("parameters", []) if one["in"] != "path"}
            for content in operation.get("requestBody", {}).get("content", {}).values():
                bodies = content["schema"].get("oneOf", [content["schema"]])
                for one in (each for each in bodies if "$ref" in each):  # the other is null
                    name = one["$ref"].rpartition("/")[2]
                    taken |= set(document["components"]["schemas"][name]["properties"])
            found[f"{method.upper()} {path}"] = taken
    return found


class Side(Struct, frozen=True):
    """One of the two workspaces, with what its strings are recognised by."""

    workspace: str
    name: str
    mark: str
    phone: str
    key: str
    api: Api
    ids: list[str] = []
    own_variable: list[str] = []
    own: dict[str, str] = {}  # an integration, a user connected through it, a connect session

    @property
    def sentinels(self) -> set[str]:
        """What nobody from outside may ever see; ``directory`` is what the operator may."""
        return {self.mark, self.phone, self.key, *self.ids}

    @property
    def directory(self) -> set[str]:
        return {self.workspace, self.name}

    @property
    def profile(self) -> dict[str, object]:
        return {
            "name": f"person {self.mark}",
            "phone_numbers": [self.phone],
            "attributes": {"plan": f"plan {self.mark}"},
        }

    async def lacking(self, *scopes: Scope) -> Api:
        """With a key of every scope but these."""
        others = [one for one in SCOPES if one not in scopes]
        narrow = await self.api.post("/v1/keys", {"name": "narrow", "scopes": others})
        return self.api.with_key(narrow.json["key"])

    async def make(self, kind: Kind, wanted: str = "") -> str:
        """Make a thing of one kind; one that is named gets the wanted name."""
        if kind == "workspace":
            return self.workspace
        reply = await self._made(kind, wanted)
        assert reply.status in {200, 201}, reply.body
        if kind in NAMED:
            made = wanted
        else:
            found = reply.json["data"][0] if kind in {"event", "news"} else reply.json
            made = found[_ID_FIELDS.get(kind, "id")]
        self.ids.append(made)
        return made

    async def _made(self, kind: Kind, wanted: str) -> Reply:
        if kind == "user":
            made = await self.api.put(f"/v1/users/{wanted}", self.profile)
            await self._import(wanted, self.own["integration"])
            return made
        if kind in {"label", "environment", "variable"}:
            text = f"value_{self.mark}"
            values = {"production": text, **({wanted: text} if kind in NAMED else {})}
            body = {"type": "string", "label": wanted or f"label_{_hex()}", "values": values}
            return await self.api.post("/v1/convai/environment-variables", body)
        if kind in {"integration", "connected", "connection", "connect_session"}:
            return await self._made_to_connect(kind, wanted)
        if kind == "conversation":
            asked = {"agent_id": self.own["agent"], "user_id": self.own["user"]}
            return await self.api.post("/v1/conversations", {**asked, "runtime": "sealed"})
        if kind == "agent":
            tier = {"value": f"tier {self.mark}"}
            tool = {"kind": "webhook", "config": {"url": f"https://{self.mark}.example.com/"}}
            profile = {"variables": {"tier": tier}, "stored_tools": {"told": tool}}
            return await self.api.put(f"/v1/agents/{wanted}", profile)
        return await self._made_otherwise(kind)

    async def _made_otherwise(self, kind: Kind) -> Reply:
        if kind in {"event_endpoint", "news"}:
            return await self._made_to_hear(kind)
        if kind == "secret":
            hosts = ["127.0.0.1", f"{self.mark}.example.com"]
            named = {"name": f"secret {self.mark}", "value": f"value {self.mark}"}
            body = {"type": "new", **named, "allowed_hosts": hosts}
            return await self.api.post("/v1/convai/secrets", body)
        if kind == "auth_connection":
            body = {"auth_type": "bearer_auth", "provider": "x", "token": f"token_{self.mark}"}
            named = {"name": f"connection {self.mark}"}
            return await self.api.post("/v1/workspace/auth-connections", {**body, **named})
        body = {"name": f"key {self.mark}", "scopes": ["mint"]}
        reply = await self.api.post("/v1/keys", body, headers={"Idempotency-Key": _hex()})
        return reply if kind == "key" else await self.api.get("/v1/audit-events?limit=1")

    async def _made_to_connect(self, kind: Kind, wanted: str) -> Reply:
        if kind == "connection":
            user = f"of_{self.mark}_{_hex()}"
            return await self._import(user, self.own["integration"])
        if kind == "connect_session":
            return await self.api.post("/v1/connect-sessions", {"user_id": self.own["user"]})
        made = await self.api.put(f"/v1/integrations/{wanted}", {"provider": "api-key"})
        return await self._import(self.own["user"], wanted) if kind == "connected" else made

    async def _made_to_hear(self, kind: Kind) -> Reply:
        if kind == "event_endpoint":
            url = f"https://{self.mark}.example.com/"
            return await self.api.post("/v1/event-endpoints", {"url": url})
        await self._made_to_connect("connection", "")
        path = f"/v1/event-endpoints/{self.own['endpoint']}/deliveries"
        return await self.api.get(f"{path}?limit=1")

    async def _import(self, user: str, integration: str) -> Reply:
        path = f"/v1/users/{user}/connections/{integration}"
        return await self.api.put(path, {"api_key": f"key_{self.mark}"})

    async def make_own(self) -> None:
        """What requests about something else go through."""
        self.own.update({name: f"{name}_{_hex()}" for name in ("integration", "user", "agent")})
        await self.make("integration", self.own["integration"])
        await self.make("user", self.own["user"])
        await self.make("agent", self.own["agent"])
        self.own["workspace"] = self.workspace
        self.own["session"] = await self.make("connect_session")
        self.own["endpoint"] = await self.make("event_endpoint")

    async def make_own_variable(self) -> None:
        """One that refers to a secret, for requests that would make it refer to another."""
        secret = {"secret_id": await self.make("secret")}
        body = {"type": "secret", "label": f"own_{_hex()}", "values": {"production": secret}}
        reply = await self.api.post("/v1/convai/environment-variables", body)
        self.own_variable.append(reply.json["id"])
        self.ids.append(reply.json["id"])


class Who(Struct, frozen=True):
    """A caller: what it holds, where it is at home, and whose things are not its own."""

    name: str
    api: Api
    home: Side | None
    rivals: tuple[Side, ...]
    valid: bool = True
    wide: bool = True

    def expected(self, action: Action | None, success: int) -> int:
        """The status that this caller gets for what is its own."""
        if action is None:
            return success
        if not self.valid:
            return 401
        if self.home is None:
            return success if action in OUTSIDE else 403
        return success if self.wide and RULES[action].scope else 403


class Seen(Struct, frozen=True):
    """What a caller can tell two answers apart by."""

    status: int
    headers: frozenset[tuple[str, str]]
    body: bytes


class Fight:
    """Two workspaces on one deployment, and everybody who could ask."""

    def __init__(self, field: "Field", operator: Api, ada: Side, bob: Side) -> None:
        self._inside = field.inside
        self._outside = field.outside
        self._operator = operator
        self.ada, self.bob = ada, bob

    async def callers(self, action: Action | None) -> list[Who]:
        ada, bob = self.ada, self.bob
        narrow = await ada.lacking(*scopes_of(action))
        nobody, garbage = self._operator.with_key(None), generate("api_key").reveal()
        return [
            Who("no key", nobody, None, (ada, bob), valid=False),
            Who("a garbage key", nobody.with_key(garbage), None, (ada, bob), valid=False),
            Who("the widest key", ada.api, ada, (bob,)),
            Who("a key without the scope", narrow, ada, (bob,), wide=False),
            Who("the rival's key", bob.api, bob, (ada,)),
            Who("the operator", self._operator, None, (ada, bob)),
        ]

    async def strike(self, who: Who, route: str, attack: Attack) -> dict[Place, Seen]:
        """Call a route on each kind of id, and check what holds for every single answer."""
        seen: dict[Place, Seen] = {}
        for place in self._places(who, attack):
            target = await self._target(who, attack.kind, place)
            rivals = [side.workspace for side in who.rivals]
            before = await self._inside.rows(*rivals)
            words = {
                "{id}": target,
                "{cursor}": _cursor(target),
                "{fresh}": f"fresh_{_hex()}",
                "{mine}": (who.home or self.ada).own_variable[0],
                **{f"{{{name}}}": one for name, one in (who.home or self.ada).own.items()},
                "{outside}": f"http://127.0.0.1:{self._outside.port}",
            }
            method, path, body = _request(route, attack, words)
            self._outside.heard.clear()
            if attack.lines:
                line = json.dumps(body).encode()
                reply = await who.api.call(method, path, raw=line, headers=LINES)
            else:
                reply = await who.api.call(method, path, body=body)
            assert await self._inside.rows(*rivals) == before, (
                f"{who.name} changed what is not its own: {method} {path}"
            )
            shown = f"{dict(reply.headers)}\n{reply.body.decode()}"
            _assert_shows_nothing(who, shown, words.values())
            _assert_shows_nothing(who, b"".join(self._outside.heard).decode(), words.values())
            seen[place] = _seen(reply, target)
        return seen

    def _places(self, who: Who, attack: Attack) -> tuple[Place, ...]:
        if attack.kind is None:
            return ("own",)
        if attack.kind == "workspace" and who.name == "the operator":
            return ("own", "missing")  # to the directory no workspace is foreign
        shared = attack.kind in NAMED and "{cursor}" not in attack.query
        return ("own", *(("shared",) if shared else ()), "foreign", "missing")

    async def _target(self, who: Who, kind: Kind | None, place: Place) -> str:
        home, rival = who.home or self.ada, who.rivals[-1]
        if kind is None:
            return ""
        # A page that begins after a rival's user is the same as one after a user that never was:
        # users of one side all sort before or all after those of the other.
        side = rival if place in {"foreign", "missing"} else home
        name = f"{'a' if side is self.ada else 'b'}_{_hex()}"
        if place == "missing":
            return name if kind in NAMED else new_id(PREFIXES[kind])
        if kind == "workspace" and who.name == "the operator":
            made: str = (await self._operator.post("/v1/workspaces", {"name": "own"})).json["id"]
            return made
        if place == "shared":
            await rival.make(kind, name)
        return await side.make(kind, name if kind in NAMED else "")


class Inside(Struct, frozen=True):
    """A look at the tables past row-level security."""

    admin: Any
    checksums: str

    @classmethod
    async def of(cls, admin: Any) -> "Inside":
        tables = await admin.fetch(
            "select table_schema || '.' || table_name from information_schema.columns"
            " where column_name = 'workspace_id' and table_schema in ('vault', 'broker')"
        )
        # last_used_at is the doing of the keys themselves.
        told = {"vault.api_keys": "(to_jsonb(t) - 'last_used_at')::text"}
        parts = [
            f"select '{name}', sum(hashtextextended({told.get(name, 't::text')}, 0))::text"  # noqa: S608
            f" from {name} t where workspace_id = any($1)"
            for (name,) in tables
        ]
        return cls(admin, " union all ".join(parts))

    async def rows(self, *workspaces: str) -> dict[str, str]:
        """A checksum a table of what workspaces hold."""
        found = await self.admin.fetch(self.checksums, workspaces)
        return {name: checksum for name, checksum in found if checksum}


class Field:
    """A deployment of its own, with the walls that it was asked for."""

    def __init__(self, walls: Walls, inside: Inside, outside: Listener, operator: Api) -> None:
        self.walls = walls
        self.inside = inside
        self.outside = outside
        self.operator = operator
        self._about: tuple[str, Fight] | None = None

    async def fight_about(self, route: str) -> Fight:
        """The fight of all attacks on one route: to make its sides is half of an attack's work."""
        if self._about is None or self._about[0] != route:
            self._about = route, await self.fight()
        return self._about[1]

    async def fight(self) -> Fight:
        """A fight of one's own."""
        return Fight(self, self.operator, await self._side("a"), await self._side("b"))

    async def _side(self, letter: str) -> Side:
        name = f"workspace {_hex()}"
        made = (await self.operator.post("/v1/workspaces", {"name": name})).json
        api = self.operator.with_key(made["api_key"])
        phone = f"+1{uuid.uuid4().int % 10**13:013}"
        side = Side(made["id"], name, _hex(), phone, made["api_key"], api)
        await side.make_own()
        for _ in range(2):
            await side.make("key")
            await side.make("user", f"{letter}_{_hex()}")
            await side.make("environment", f"{letter}_{_hex()}")
            await side.make("secret")
            await side.make("auth_connection")
            await side.make("connection")
        await side.make_own_variable()
        return side


@asynccontextmanager
async def field(
    postgres: Embedded, root: RootKey, settings: Settings, walls: Walls
) -> AsyncIterator[Field]:
    """Open a deployment on a database of its own; ``walls`` says which of them stand."""
    name = f"matrix_{walls}_{uuid.uuid4().hex[:8]}"
    main = await asyncpg.connect(postgres.dsn().reveal())
    await main.execute(f'create database "{name}"')
    owner, login = (
        Secret(postgres.dsn(user).reveal().replace("/keyturn?", f"/{name}?"))
        for user in ("postgres", "keyturn_app")
    )
    try:
        await migrate(owner, [Login(login, "keyturn_app")], parts=PARTS)
        admin = await asyncpg.connect(owner.reveal())
        if walls == "conditions":
            await switch_row_security_off(admin)
        database = await Database.open(login, size=5, statement_cache=200)
        egress = Egress(allow=parse_allow("127.0.0.1", development=True))
        vault = await Vault.open(database, root, egress=egress)
        key = settings.operator_keys[0].reveal()
        with without_conditions(really=walls == "row_security"):
            # A connection a request: nothing of one caller's can stay for the next.
            connector = aiohttp.TCPConnector(force_close=True)
            async with (
                listening(saying(ANSWER)) as outside,
                running(vault, settings) as service,
                aiohttp.ClientSession(connector=connector) as session,
            ):
                yield Field(walls, await Inside.of(admin), outside, Api(session, service.base, key))
        await vault.close()
        await admin.close()
    finally:
        await main.execute(f'drop database "{name}" with (force)')
        await main.close()


async def switch_row_security_off(admin: Any) -> None:
    tables = await admin.fetch(
        "select oid::regclass::text from pg_class where relrowsecurity or relforcerowsecurity"
    )
    assert len(tables) > 5, "the schema has lost its tables, or row-level security already"
    for (table,) in tables:
        await admin.execute(f"alter table {table} disable row level security")
        await admin.execute(f"alter table {table} no force row level security")


@contextmanager
def without_conditions(*, really: bool) -> Iterator[None]:
    """Take the workspace out of every statement's conditions: only the database knows it then."""
    queries = every_query()
    before = {name: query.sql for name, query in queries.items()}
    try:
        for name, query in queries.items() if really else ():
            if name not in DIRECTORY:
                query.sql = without_workspace(query.sql)
        changed = sum(query.sql != before[name] for name, query in queries.items())
        assert not really or changed > 10, "the statements do not look as this function thinks"
        yield
    finally:
        for name, query in queries.items():
            query.sql = before[name]


def without_workspace(sql: str) -> str:
    """The statement as it would be if its author had forgotten the workspace."""
    # The parameter is still used, and still known to be a text.
    sql = re.sub(r"(\b\w+\.)?\bworkspace_id = \$(\d+)", r"($\2::text is not null)", sql)
    sql = re.sub(r"\b\w+\.workspace_id = \w+\.workspace_id\b", "true", sql)
    assert not re.search(r"workspace_id\s*(=|in\b)", sql), f"the workspace is still in it: {sql}"
    return sql


def _request(route: str, attack: Attack, words: dict[str, str]) -> tuple[str, str, Any]:
    method, _, path = route.partition(" ")
    for name, value in attack.path.items():
        path = path.replace(f"{{{name}:str}}", value)
    path = re.sub(r"\{[a-z_]+:str\}", "{id}", path)
    path += f"?{attack.query}" if attack.query else ""
    body = attack.body and json.loads(_filled(json.dumps(attack.body), words))
    return method, _filled(path, words), body


def _filled(text: str, words: dict[str, str]) -> str:
    for name, word in words.items():
        text = text.replace(name, word)
    return text


def _assert_shows_nothing(who: Who, shown: str, sent: Iterable[str]) -> None:
    for word in filter(None, sent):
        shown = shown.replace(word, "")
    for side in who.rivals:
        hidden = side.sentinels if who.name == "the operator" else side.sentinels | side.directory
        # What an earlier attack has made on both sides under one name is his own, too.
        for sentinel in hidden - set(who.home.ids if who.home else ()):
            assert sentinel not in shown, f"{who.name} sees what is not its own"


def _seen(reply: Reply, target: str) -> Seen:
    """Leave out what differs between any two answers, and the id that was asked for."""
    body = reply.body
    if target:
        body = body.replace(target.encode(), b"<id>")
    body = re.sub(rb'"(request_id|[a-z_]+_at|at|start_by)":"[^"]*"', rb'"\1":"..."', body)
    body = re.sub(rb'"([a-z]+_at_unix_secs)":\d+', rb'"\1":0', body)
    body = re.sub(
        rb"\b(evt|usr|envvar|conn|cs|ktc|ep|whsec|kcv|kt[gsh])_[0-9A-Za-z+/=]+", rb"\1_...", body
    )
    headers = {
        (name.lower(), value)
        for name, value in reply.headers.items()
        if name.lower() not in {"date", "x-request-id"}
    }
    return Seen(reply.status, frozenset(headers), body)


def _cursor(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _hex() -> str:
    return uuid.uuid4().hex
