"""Environments as code, end to end: the command, real servers, and what goes wrong between them."""

import asyncio
import json
import os
import pty
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner
from conftest import MakeTenant, Tenant
from msgspec import Struct
from support.api import Running, running
from support.configured import Configured
from support.databases import address, name_in

from broker.cli import main
from broker.environment_file import compare, document_of, read, write
from broker.environment_file.values import read_given
from broker.migrations import PARTS
from broker.settings import Settings
from broker.targets import Stopped, Target, apply
from broker.targets.own import OwnTarget
from broker.targets.remote import RemoteTarget
from vault.database import Database
from vault.egress import Egress, parse_allow
from vault.embedded import Embedded
from vault.errors import Unreachable
from vault.kms import open_root_key
from vault.kms.file import create as create_root_key
from vault.migrations import Login, migrate
from vault.model import SCOPES, Caller, NewKey
from vault.secret import Secret
from vault.vault import Vault

SENTINEL = "sentinel-88ac31"
SECRETS = {
    "secrets": {"stripe_key": f"{SENTINEL}-stripe", "staging_key": f"{SENTINEL}-staging"},
    "auth_connections": {"orders_api": {"client_secret": f"{SENTINEL}-orders"}},
}
FILE = """version: 1
environments: [production, staging, empty]
secrets:
  stripe_key: {allowed_hosts: [api.stripe.com]}
  staging_key: {}
auth_connections:
  orders_api:
    auth_type: oauth2_client_credentials
    provider: orders
    client_id: abc
    token_url: https://login.example.com/token
    scopes: [read]
variables:
  api_host:
    type: string
    values: {production: api, staging: staging.api}
  api_key:
    type: secret
    values: {production: {secret: stripe_key}, staging: {secret: staging_key}}
  creds:
    type: auth_connection
    values: {production: {auth_connection: orders_api}}
"""


class Ran(Struct, frozen=True):
    """A command that ended."""

    code: int
    out: str
    err: str


Keyturn = Callable[..., Awaitable[Ran]]


@pytest.fixture
def here(migrated: Embedded, root_key_file: Path) -> dict[str, str]:
    """The settings of the deployment under test."""
    return {
        "KEYTURN_MODE": "development",
        "KEYTURN_DATABASE_URL": migrated.dsn("keyturn_app").reveal(),
        "KEYTURN_KEK": root_key_file.as_uri(),
        "KEYTURN_EGRESS_ALLOW": "127.0.0.1",
    }


@pytest.fixture
def keyturn(here: dict[str, str], tmp_path: Path) -> Keyturn:
    """Runs the command; none of what it is given or says may hold a secret."""

    async def run(
        *arguments: object, stdin: str = "", settings: Mapping[str, str] | None = None
    ) -> Ran:
        words = [str(one) for one in arguments]
        assert not any(SENTINEL in word for word in words)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "broker.cli", "env", *words),
            env=environ_of(here if settings is None else settings),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin.encode())
        assert SENTINEL.encode() not in out + err
        assert b"Traceback" not in err, err.decode()
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())

    return run


def environ_of(settings: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KEYTURN_")}
    return {**kept, "COLUMNS": "200", **settings}


def unchanged(ran: Ran) -> bool:
    """Did the command find nothing to do? (It may still warn.)"""
    return ran.code == 0 and ran.out.endswith("no changes\n") and "done:" not in ran.out


def put(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def remote(tenant: Tenant, folder: Path) -> tuple[str, ...]:
    """The options by which a workspace is reached from elsewhere."""
    key = put(folder / f"{tenant.id}.key", f"{tenant.key}\n")
    return ("--target", tenant.api.base, "--target-key-file", str(key))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written = tmp_path / "environments.yaml"
    put(written, FILE)
    return written


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    written = tmp_path / "secrets.json"
    put(written, json.dumps(SECRETS))
    return written


@pytest.fixture
async def elsewhere(
    fresh_database: Secret, postgres: Embedded, tmp_path: Path, settings: Settings
) -> AsyncIterator[tuple[str, ...]]:
    """Another Keyturn: its own server, database and root key."""
    login = address(postgres, name_in(fresh_database), "keyturn_app")
    await migrate(fresh_database, [Login(login, "keyturn_app")], parts=PARTS)
    create_root_key(tmp_path / "other.key")
    database = await Database.open(login, size=2, statement_cache=100)
    egress = Egress(allow=parse_allow("127.0.0.1", development=True))
    root = open_root_key((tmp_path / "other.key").as_uri())
    vault = await Vault.open(database, root, egress=egress)
    try:
        made = await vault.create_workspace(
            Caller.operator("tests"), "elsewhere", first_key=NewKey(name="k", scopes=SCOPES)
        )
        assert made.bearer is not None
        put(tmp_path / "elsewhere.key", made.bearer.reveal())
        async with running(vault, settings) as service:
            key_file = str(tmp_path / "elsewhere.key")
            yield ("--target", service.base, "--target-key-file", key_file)
    finally:
        await vault.close()


async def test_what_one_keyturn_exports_another_applies(
    tenant: Tenant, elsewhere: tuple[str, ...], keyturn: Keyturn, tmp_path: Path, secrets: Path
) -> None:
    made = Configured(tenant.api)
    ids = [await made.secret(name, f"{SENTINEL}-x") for name in ("stripe_key", "staging_key")]
    auth = await made.connection(
        "orders_api", auth_type="basic_auth", username="on", password=f"{SENTINEL}-y"
    )
    await made.strings(
        "api_host", {"production": "api", "staging": "no", "dev": "a: \u2028 '#\"\n"}
    )
    await made.secrets("api_key", {"production": ids[0], "staging": ids[1]})
    await made.connections("creds", {"production": auth})
    exported, again = tmp_path / "exported.yaml", tmp_path / "again.yaml"
    put(secrets, json.dumps({**SECRETS, "auth_connections": {"orders_api": {"password": "p"}}}))

    assert (await keyturn("export", "-w", tenant.id, "-o", exported)).code == 0
    assert unchanged(await keyturn("plan", exported, "-w", tenant.id, "--check"))
    planned = await keyturn("plan", exported, *elsewhere, "--check")
    assert planned.code == 3
    assert "8 to create" in planned.out
    applied = await keyturn("apply", exported, *elsewhere, "--secrets", secrets, "--yes")
    assert applied.code == 0, applied.err
    planned = await keyturn("plan", exported, *elsewhere, "--check", "--prune")
    assert unchanged(planned)
    assert (await keyturn("export", *elsewhere, "-o", again)).code == 0
    assert again.read_bytes() == exported.read_bytes()

    put(exported, exported.read_text().replace('"no"', "other"))
    planned = await keyturn("plan", exported, *elsewhere, "--check")
    assert planned.code == 3
    assert '~ staging: "no" -> "other"' in planned.out
    assert (await keyturn("apply", exported, *elsewhere, "--yes")).code == 0
    assert unchanged(await keyturn("apply", exported, *elsewhere, "--yes"))


async def test_here_it_goes_through_the_door_and_the_values_arrive(
    tenant: Tenant, keyturn: Keyturn, vault: Vault, file: Path
) -> None:
    applied = await keyturn(
        *("apply", file, "-w", tenant.id, "--secrets", "-", "--yes"), stdin=json.dumps(SECRETS)
    )
    assert applied.code == 0, applied.err
    found = await vault.use_configuration(tenant.caller, {"api_key"}, set(), "staging")
    value: Any = found.labels["api_key"].value
    assert value.value == Secret(f"{SENTINEL}-staging")
    record = (await tenant.api.get("/v1/audit-events?limit=100")).json["data"]
    writers = {one["actor"]["id"] for one in record if one["action"] == "variable.write"}
    assert len(writers) == 1
    assert writers.pop().startswith("terminal:")

    rotated = {"secrets": {"staging_key": f"{SENTINEL}-rotated"}}
    options = ("apply", file, "-w", tenant.id, "--secrets", "-", "--yes")
    assert unchanged(await keyturn(*options, stdin=json.dumps(rotated)))
    ran = await keyturn(*options, "--rotate", "staging_key", stdin=json.dumps(rotated))
    assert "done: update secret staging_key" in ran.out
    found = await vault.use_configuration(tenant.caller, {"api_key"}, set(), "staging")
    value = found.labels["api_key"].value
    assert value.value == Secret(f"{SENTINEL}-rotated")


async def test_a_missing_value_is_said_before_anything_has_changed(
    tenant: Tenant, keyturn: Keyturn, file: Path
) -> None:
    ran = await keyturn("apply", file, "-w", tenant.id, "--yes")
    assert ran.code == 1
    assert "Nothing was changed; these values are missing:" in ran.err
    assert "secret stripe_key" in ran.err
    assert "auth connection orders_api, client_secret" in ran.err
    assert "api_host" not in (await keyturn("export", "-w", tenant.id)).out


async def test_prune_removes_what_the_file_does_not_say(
    tenant: Tenant, keyturn: Keyturn, file: Path, secrets: Path, tmp_path: Path
) -> None:
    options = ("-w", tenant.id)
    await keyturn("apply", file, *options, "--secrets", secrets, "--yes")
    little = tmp_path / "little.yaml"
    put(little, "version: 1\nenvironments: [production]\n")
    kept = await keyturn("apply", little, *options, "--yes")
    assert kept.code == 0
    assert "not in the file, and left as it is" in kept.out
    assert "    variable api_key" in kept.out
    ran = await keyturn("apply", little, *options, "--yes", "--prune", "--json")
    assert ran.code == 0
    assert len(json.loads(ran.out)["applied"]) == 8
    exported = await keyturn("export", *options, "--json")
    assert json.loads(exported.out) == {"version": 1, "environments": ["production"]}


async def test_a_type_changes_only_where_that_is_allowed(
    tenant: Tenant, keyturn: Keyturn, file: Path, secrets: Path
) -> None:
    options = ("-w", tenant.id, "--yes")
    await keyturn("apply", file, *options, "--secrets", secrets)
    text = FILE.replace("type: auth_connection", "type: string")
    put(file, text.replace("{auth_connection: orders_api}", "basic"))
    ran = await keyturn("apply", file, *options)
    assert ran.code == 1
    assert "The type of creds would change" in ran.err
    ran = await keyturn("apply", file, *options, "--replace")
    assert ran.code == 0
    assert "-/+ variable creds (string)" in ran.out
    assert unchanged(await keyturn("apply", file, *options))


# A target that fails


class Failing:
    """Passes requests on, and loses the n-th change: on its way there, or on its way back."""

    def __init__(self, target: Target, number: int, *, heard: bool) -> None:
        self._target = target
        self._left = number
        self._heard = heard

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        async def call(*arguments: Any) -> Any:
            if name == "read":
                return await method(*arguments)
            self._left -= 1
            if self._left == 0 and not self._heard:
                raise Unreachable(sent=False)
            answer = await method(*arguments)
            if self._left == 0:
                raise Unreachable(sent=True)
            return answer

        return call


BEFORE = """version: 1
environments: [production, staging, old]
secrets: {stripe_key: {}, old_key: {}}
auth_connections:
  orders_api:
    auth_type: oauth2_client_credentials
    provider: orders
    client_id: before
    token_url: https://login.example.com/token
  old_api: {auth_type: bearer_auth, provider: x}
variables:
  api_host: {type: string, values: {production: api, old: old.api}}
  api_key: {type: secret, values: {production: {secret: old_key}}}
  creds: {type: string, values: {production: none}}
  old_creds: {type: auth_connection, values: {production: {auth_connection: old_api}}}
"""


def door(tenant: Tenant, vault: Vault, _egress: Egress) -> Target:
    return OwnTarget(vault, Caller.operator("tests").within(tenant.id))


def api(tenant: Tenant, _vault: Vault, egress: Egress) -> Target:
    return RemoteTarget(egress, tenant.api.base, Secret(tenant.key), "keyturn")


def ignore(_step: object) -> None:
    """Nobody is told."""


async def bring(target: Target, text: str, *, over: Target | None = None) -> None:
    """Apply, all secrets being at hand; read through ``target``, change through ``over``."""
    document = read(text.encode(), "env.yaml")
    given: dict[str, Any] = {
        "secrets": dict.fromkeys(document.secrets, "s"),
        "auth_connections": {"orders_api": {"client_secret": "s"}},
    }
    if "old_api" in document.auth_connections:
        given["auth_connections"]["old_api"] = {"token": "s"}
    plan = compare(document, await target.read(), prune=True)
    values = read_given(json.dumps(given).encode(), document)
    assert await apply(plan, over or target, values, ignore) == []


@pytest.mark.parametrize("reach", [door, api])
async def test_whatever_step_fails_applying_again_gets_there(
    reach: Callable[[Tenant, Vault, Egress], Target], make_tenant: MakeTenant, vault: Vault
) -> None:
    egress = Egress(allow=parse_allow("127.0.0.1", development=True))
    expected = write(read(FILE.encode(), "env.yaml"))
    failed = True
    try:
        for number in range(1, 100):
            failed = False
            for heard in (False, True) if reach is door else (bool(number % 2),):
                tenant = await make_tenant()
                target = reach(tenant, vault, egress)
                await bring(door(tenant, vault, egress), BEFORE)
                failed = False
                try:
                    await bring(target, FILE, over=Failing(target, number, heard=heard))
                except Stopped:
                    failed = True
                    await bring(target, FILE)
                assert write(document_of(await target.read())) == expected
                plan = compare(read(FILE.encode(), "env.yaml"), await target.read(), prune=True)
                assert plan.steps == []
            if not failed:  # there are not so many steps
                assert number > 10
                return
    finally:
        await egress.aclose()
    pytest.fail("it never ends")


# ElevenLabs


class ElevenLabs:
    """A Keyturn's compatible routes, with the manners of ElevenLabs: see each knob."""

    def __init__(self, service: Running) -> None:
        self._app = service.service.asgi
        self.has_environments = True
        self.busy = 0  # so many answers are 429
        self.in_use: set[str] = set()  # paths that may not be deleted
        self.heard: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if path.startswith("/v1/convai/environments") and not self.has_environments:
            await answer(send, 404, {"detail": "Not Found"})
        elif self.busy > 0:
            self.busy -= 1
            await answer(send, 429, {"detail": {"status": "rate_limit_exceeded"}})
        elif scope["method"] == "DELETE" and path in self.in_use:
            detail = {"code": "conflict", "message": "Used by the tool get_orders."}
            await answer(send, 409, {"detail": detail})
        else:

            async def hear() -> Any:
                message = await receive()
                self.heard.append(message.get("body", b""))
                return message

            await self._app(scope, hear, send)


async def answer(send: Any, status: int, body: Any) -> None:
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    config = uvicorn.Config(
        app, port=0, loop="none", http="httptools", lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    ticking = asyncio.create_task(server.main_loop())
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await ticking
        await server.shutdown()


@pytest.fixture
async def elevenlabs(service: Running) -> AsyncIterator[tuple[ElevenLabs, str]]:
    app = ElevenLabs(service)
    async with serving(app) as base:
        yield app, base


async def test_elevenlabs_is_a_target(
    elevenlabs: tuple[ElevenLabs, str],
    tenant: Tenant,
    keyturn: Keyturn,
    file: Path,
    secrets: Path,
    tmp_path: Path,
) -> None:
    app, base = elevenlabs
    key = tmp_path / "key"
    put(key, tenant.key)
    options = ("--target", "elevenlabs", "--target-url", base, "--target-key-file", key)
    put(file, FILE.replace("api_host", "API_HOST"))
    app.busy = 3
    planned = await keyturn("plan", file, *options)
    assert "ElevenLabs may refuse the label 'API_HOST'" in planned.out
    assert "ElevenLabs keeps no allowed_hosts" in planned.out
    applied = await keyturn("apply", file, *options, "--secrets", secrets, "--yes")
    assert applied.code == 0, applied.err
    assert b"allowed_hosts" not in b"".join(app.heard)
    planned = await keyturn("plan", file, *options, "--check", "--prune")
    assert unchanged(planned)


async def test_an_elevenlabs_without_a_list_of_environments_is_a_target_too(
    elevenlabs: tuple[ElevenLabs, str],
    tenant: Tenant,
    keyturn: Keyturn,
    file: Path,
    secrets: Path,
) -> None:
    app, base = elevenlabs
    app.has_environments = False
    options = ("--target", "elevenlabs", "--target-url", base, "--target-key-file", "-")
    applied = await keyturn(
        "apply", file, *options, "--secrets", secrets, "--yes", stdin=tenant.key
    )
    assert applied.code == 0, applied.err
    planned = await keyturn("plan", file, *options, "--check", stdin=tenant.key)
    assert planned.code == 0
    assert "This target lists no environments" in planned.out
    exported = await keyturn("export", *options, stdin=tenant.key)
    assert "environments:\n  - production\n  - staging\nsecrets" in exported.out


async def test_a_refused_deletion_is_reported_and_the_others_are_made(
    elevenlabs: tuple[ElevenLabs, str], tenant: Tenant, keyturn: Keyturn, tmp_path: Path
) -> None:
    app, base = elevenlabs
    made = Configured(tenant.api)
    used, _ = [await made.secret(name, "x") for name in ("a", "b")]
    app.in_use = {f"/v1/convai/secrets/{used}"}
    little = tmp_path / "little.yaml"
    put(little, "version: 1\nenvironments: [production]\n")
    options = ("--target", "elevenlabs", "--target-url", base, "--target-key-file", "-")
    ran = await keyturn("apply", little, *options, "--yes", "--prune", stdin=tenant.key)
    assert ran.code == 1
    assert 'delete secret a: the target answered 409 (conflict): "Used by the tool' in ran.err
    assert "done: delete secret b" in ran.out
    left = (await tenant.api.get("/v1/convai/secrets")).json["secrets"]
    assert [one["name"] for one in left] == ["a"]


# What goes wrong


async def test_another_service_needs_no_database_and_no_root_key_here(
    tenant: Tenant, keyturn: Keyturn, tmp_path: Path
) -> None:
    allowed = {"KEYTURN_EGRESS_ALLOW": "upstream=http://127.0.0.1"}
    ran = await keyturn("export", *remote(tenant, tmp_path), settings=allowed)
    assert ran.code == 0, ran.err
    ran = await keyturn("export", *remote(tenant, tmp_path), settings={})
    assert ran.code == 1
    assert "keyturn: " in ran.err
    ran = await keyturn("export", *remote(tenant, tmp_path), settings={"KEYTURN_X": "1"})
    assert "KEYTURN_X: there is no such setting" in ran.err


async def test_a_wrong_key_a_wrong_address_and_a_wrong_file_are_said(
    tenant: Tenant, keyturn: Keyturn, tmp_path: Path, file: Path
) -> None:
    base = tenant.api.base
    ran = await keyturn("export", "--target", base, "--target-key-file", "-", stdin="kt_x")
    assert (ran.code, ran.err) == (
        1,
        'keyturn: the target does not know this key (invalid_api_key): "Invalid API key"\n',
    )
    ran = await keyturn("export", "--target", base, "--target-key-file", "-")
    assert ran.err == "keyturn: The file of the target's key is empty.\n"
    ran = await keyturn(
        "export", "--target", f"{base}/nowhere", "--target-key-file", "-", stdin="k"
    )
    assert "the target answered 404" in ran.err
    ran = await keyturn("export", "--target", base)
    assert "Give the target's key" in ran.err
    ran = await keyturn("plan", tmp_path / "none.yaml", "-w", tenant.id)
    assert "none.yaml cannot be read: No such file or directory." in ran.err
    put(file, "version: 1\nenvironments: [staging]")
    ran = await keyturn("plan", file, "-w", tenant.id)
    assert f"{file} cannot be used:\n  line 2, environments: 'production' is missing" in ran.err
    ran = await keyturn("plan", file, "-w", "nobody")
    assert ran.code == 1


@pytest.mark.parametrize(
    "options",
    [
        ("export", "--target", "https://a.example.com", "--workspace", "w"),
        ("export", "--target", "a.example.com"),
        ("export", "--target-url", "https://a.example.com"),
        ("export", "--target-key-file", "x"),
        ("apply", "x.yaml"),
        ("apply", "-", "--secrets", "-", "--yes"),
        ("plan", "-", "--target", "elevenlabs", "--target-key-file", "-"),
    ],
)
def test_wrong_usage_is_exit_code_2(options: tuple[str, ...]) -> None:
    assert CliRunner().invoke(main, ["env", *options]).exit_code == 2


# A terminal


async def at_a_terminal(
    settings: Mapping[str, str], arguments: list[str], lines: list[str]
) -> tuple[int, str]:
    """Run with a terminal for everything; type a line whenever something is asked."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker.cli", "env", *arguments),
        env=environ_of({"TERM": "xterm", **settings}),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    seen = b""
    loop = asyncio.get_running_loop()
    try:
        while piece := await loop.run_in_executor(None, os.read, ours, 4096):
            seen += piece  # which may end within a character
            if lines and seen.endswith(b": "):
                os.write(ours, f"{lines.pop(0)}\n".encode())
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(ours)
    return await process.wait(), seen.decode()


async def test_a_person_is_asked_for_secrets_and_for_consent(
    tenant: Tenant, here: dict[str, str], file: Path, keyturn: Keyturn
) -> None:
    typed = [f"{SENTINEL}-{number}" for number in range(3)]
    arguments = ["apply", str(file), "-w", tenant.id]
    code, seen = await at_a_terminal(here, arguments, [*typed, "n"])
    assert code == 1
    assert "Make these changes? [y/N]" in seen
    assert SENTINEL not in seen
    assert "\x1b[32m+ secret staging_key" in seen
    assert "api_host" not in (await keyturn("export", "-w", tenant.id)).out
    code, seen = await at_a_terminal({**here, "NO_COLOR": "1"}, arguments, [*typed, "y"])
    assert code == 0, seen
    assert SENTINEL not in seen
    assert "\x1b[3" not in seen
    assert (await keyturn("plan", file, "-w", tenant.id, "--check")).code == 0
