"""Whatever is not exactly one living key is refused, always in the same words."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import asyncpg
import pytest
from conftest import Tenant
from support.api import Api, Running, running

from broker.settings import Settings
from vault.bearer import PREFIXES, Kind, generate, parse
from vault.embedded import Embedded
from vault.vault import Vault

OTHER_KINDS: Final = [kind for kind in PREFIXES if kind not in {"api_key", "operator"}]
Headers = list[tuple[str, str]]
Connection = Any  # asyncpg ships no types


def bearer(text: str) -> Headers:
    return [("Authorization", f"Bearer {text}")]


def api_key(text: str) -> Headers:
    return [("xi-api-key", text)]


# What is made of a living key that is not that key.
MALFORMED: Final[dict[str, Callable[[str], Headers]]] = {
    "nothing": lambda _: [],
    "an empty header": lambda _: [("Authorization", "")],
    "an empty key": lambda _: api_key(""),
    "a scheme alone": lambda _: [("Authorization", "Bearer")],
    "a scheme and a space": lambda _: [("Authorization", "Bearer ")],
    "no scheme": lambda key: [("Authorization", key)],
    "basic": lambda key: [("Authorization", f"Basic {key}")],
    "token": lambda key: [("Authorization", f"Token {key}")],
    "bearers": lambda key: [("Authorization", f"Bearers {key}")],
    "a colon": lambda key: [("Authorization", f"Bearer: {key}")],
    "a tab": lambda key: [("Authorization", f"Bearer\t{key}")],
    "twice in one": lambda key: bearer(f"{key} {key}"),
    "a list": lambda key: bearer(f"{key}, {key}"),
    "a parameter": lambda key: [("Authorization", f"Bearer key={key}")],
    "quotes": lambda key: bearer(f'"{key}"'),
    "a scheme in the other header": lambda key: api_key(f"Bearer {key}"),
    "a space within": lambda key: bearer(f"{key[:20]} {key[20:]}"),
    "a space within, other header": lambda key: api_key(f"{key[:20]} {key[20:]}"),
    "cut": lambda key: bearer(key[:-1]),
    "longer": lambda key: bearer(f"{key}0"),
    "lower case": lambda key: bearer(key.lower()),
    "upper case": lambda key: bearer(key.upper()),
    "another prefix": lambda key: bearer(f"sk_{key[3:]}"),
    "no prefix": lambda key: bearer(key[3:]),
    "a percent code": lambda key: bearer(f"{key[:-1]}%{ord(key[-1]):02x}"),
    "a look-alike": lambda key: bearer(f"\u043at_{key[3:]}"),
    "wide letters": lambda key: bearer("".join(chr(ord(one) + 0xFEE0) for one in key)),
    "a no-break space": lambda key: bearer(f"{key}\xa0"),
    "a no-break space, other header": lambda key: api_key(f"\xa0{key}"),
    "a byte that is no text": lambda key: bearer(f"{key}\xff"),
    "another one of its kind": lambda _: bearer(generate("api_key").reveal()),
    "an operator's": lambda _: bearer(generate("operator").reveal()),
    "both, and they differ": lambda key: [*bearer(key), *api_key(generate("api_key").reveal())],
    "both, and one is empty": lambda key: [*bearer(key), *api_key("")],
    "both, and one is basic": lambda key: [("Authorization", "Basic YTpi"), *api_key(key)],
    "two keys in two headers": lambda key: [*bearer(key), *bearer(generate("api_key").reveal())],
    "in a cookie": lambda key: [("Cookie", f"Authorization={key}; xi-api-key={key}")],
    "in another header": lambda key: [("X-Api-Key", key), ("Proxy-Authorization", f"Bearer {key}")],
}


async def heard(service: Running, head: bytes) -> bytes:
    """Send a request as it is, and read the answer to its end; nothing, where there is none."""
    url = urlsplit(service.base)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(head)
        await writer.drain()
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def ask(service: Running, headers: Headers, path: str = "/v1/keys") -> tuple[int, bytes]:
    """Status and answer to these headers; what differs between any two answers is left out."""
    lines = [f"GET {path} HTTP/1.1", "Host: keyturn", "Connection: close"]
    head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""])
    # A look-alike has no place in Latin-1: it goes as a client sends it, in UTF-8.
    raw = head.encode("latin-1") if head.isascii() or _is_latin(head) else head.encode()
    answer = await heard(service, raw)
    status = int(answer.split(b" ", 2)[1])
    answer = re.sub(rb"req_[0-9a-z]{26}", b"req_...", answer)
    return status, re.sub(rb"(?i)\r\ndate: [^\r]*", b"", answer)


def _is_latin(text: str) -> bool:
    return all(ord(one) < 256 for one in text)


@pytest.fixture(scope="module")
async def refused(service: Running) -> bytes:
    """The one answer to whoever cannot prove who it is."""
    status, answer = await ask(service, [])
    assert status == 401
    assert b"www-authenticate: bearer" in answer.lower()
    assert b'"code":"unauthenticated"' in answer
    return answer


@pytest.mark.parametrize("form", MALFORMED)
async def test_what_is_not_exactly_a_key_is_refused_in_the_same_words(
    service: Running, refused: bytes, tenant: Tenant, form: str
) -> None:
    assert await ask(service, MALFORMED[form](tenant.key)) == (401, refused)


@pytest.mark.parametrize("kind", OTHER_KINDS)
async def test_a_bearer_of_another_kind_is_no_key(
    service: Running, refused: bytes, kind: Kind
) -> None:
    text = generate(kind).reveal()
    for headers in (bearer(text), api_key(text)):
        assert await ask(service, headers) == (401, refused)
        assert await ask(service, headers, "/v1/workspaces") == (401, refused)


@pytest.mark.parametrize(
    "form",
    [
        bearer,
        api_key,
        lambda key: [("authorization", f"bearer {key}")],
        lambda key: [("AUTHORIZATION", f"BEARER   {key}")],
        lambda key: [("XI-API-KEY", f"  {key}")],
        lambda key: [("xi-api-key", f"{key} ")],
        lambda key: [("Authorization", f"Bearer {key} ")],
        lambda key: [*bearer(key), *api_key(key)],
        lambda key: [*bearer(key), *bearer(key)],
    ],
)
async def test_the_forms_that_http_allows_are_taken(
    service: Running, tenant: Tenant, form: Callable[[str], Headers]
) -> None:
    assert (await ask(service, form(tenant.key)))[0] == 200


async def test_every_single_changed_letter_is_refused(
    service: Running, refused: bytes, tenant: Tenant
) -> None:
    for place in range(len(tenant.key)):
        letter = "0" if tenant.key[place] != "0" else "1"
        changed = tenant.key[:place] + letter + tenant.key[place + 1 :]
        assert await ask(service, bearer(changed)) == (401, refused)


# A key that was one


async def test_a_revoked_key_is_refused_in_the_same_words(
    service: Running, refused: bytes, tenant: Tenant
) -> None:
    made = (await tenant.api.post("/v1/keys", {"name": "k", "scopes": ["manage"]})).json
    assert (await ask(service, bearer(made["key"])))[0] == 200
    await tenant.api.delete(f"/v1/keys/{made['id']}")
    assert await ask(service, bearer(made["key"])) == (401, refused)


async def test_an_expired_key_is_refused_by_the_databases_clock(
    service: Running, refused: bytes, tenant: Tenant, admin: Connection
) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    wanted = {"name": "k", "scopes": ["manage"], "expires_at": later}
    made = (await tenant.api.post("/v1/keys", wanted)).json
    assert (await ask(service, bearer(made["key"])))[0] == 200
    await admin.execute(
        "update vault.api_keys set expires_at = now() where key_id = $1", made["id"]
    )
    assert await ask(service, bearer(made["key"])) == (401, refused)


async def test_the_keys_of_a_deleted_workspace_are_refused(
    service: Running, refused: bytes, tenant: Tenant, operator: Api
) -> None:
    assert (await operator.delete(f"/v1/workspaces/{tenant.id}")).status == 204
    assert await ask(service, bearer(tenant.key)) == (401, refused)


async def test_when_a_key_was_last_used_is_known_to_the_minute(
    tenant: Tenant, anyone: Api, admin: Connection
) -> None:
    made = (await tenant.api.post("/v1/keys", {"name": "k", "scopes": ["mint"]})).json

    async def last_used() -> datetime | None:
        found = (await tenant.api.get(f"/v1/keys/{made['id']}")).json["last_used_at"]
        return datetime.fromisoformat(found) if found else None

    assert await last_used() is None
    mistyped = made["key"][:-1] + ("1" if made["key"].endswith("0") else "0")
    await anyone.with_key(mistyped).get("/v1/keys")
    assert await last_used() is None
    await anyone.with_key(made["key"]).get("/v1/keys")  # refused for its scope, and yet used
    first = await last_used()
    assert first is not None
    assert abs(datetime.now(UTC) - first) < timedelta(seconds=30)
    await anyone.with_key(made["key"]).get("/v1/keys")
    assert await last_used() == first
    long_ago = datetime.now(UTC) - timedelta(minutes=2)
    await admin.execute(
        "update vault.api_keys set last_used_at = $1 where key_id = $2", long_ago, made["id"]
    )
    await anyone.with_key(made["key"]).get("/v1/keys")
    again = await last_used()
    assert again is not None
    assert again >= first


# Too much


@pytest.mark.parametrize("size", [1_000, 60_000])
async def test_a_long_key_is_refused_like_a_short_one(
    service: Running, refused: bytes, size: int
) -> None:
    for text in ("x" * size, "kt_" + "0" * size, "kto_" + "0" * size):
        assert await ask(service, bearer(text)) == (401, refused)
        assert await ask(service, api_key(text)) == (401, refused)


# The operator's key


async def test_without_an_operator_key_nobody_is_the_operator(vault: Vault, tenant: Tenant) -> None:
    async with (
        running(vault, Settings(mode="development")) as service,
        aiohttp.ClientSession() as session,
    ):
        for key in (tenant.key, generate("operator").reveal(), None):
            reply = await Api(session, service.base, key).get("/v1/workspaces")
            assert (reply.status, reply.code) == (403, "forbidden")
        assert (await Api(session, service.base, tenant.key).get("/v1/keys")).status == 200


async def test_both_operator_keys_work_while_they_are_rotated_and_no_third(
    vault: Vault, refused: bytes
) -> None:
    old, new, other = (generate("operator") for _ in range(3))
    settings = Settings(
        mode="development", operator_key=type(old)(f"{old.reveal()}, {new.reveal()}")
    )
    async with running(vault, settings) as service:
        for key in (old, new):
            assert (await ask(service, bearer(key.reveal()), "/v1/workspaces"))[0] == 200
        for text in (other.reveal(), f"{old.reveal()},{new.reveal()}", old.reveal()[:-1], "kto_"):
            assert await ask(service, bearer(text), "/v1/workspaces") == (401, refused)


async def test_the_operator_key_opens_nothing_inside_a_workspace(
    operator: Api, tenant: Tenant
) -> None:
    for path in ("/v1/keys", "/v1/users", "/v1/audit-events"):
        reply = await operator.get(path)
        assert (reply.status, reply.code) == (403, "forbidden")


def test_a_living_key_looks_as_the_forms_above_think(tenant: Tenant) -> None:
    assert parse(tenant.key) == "api_key"
    assert tenant.key.startswith("kt_")


@pytest.fixture
async def admin(migrated: Embedded) -> AsyncIterator[Connection]:
    """A superuser, who moves the database's rows about."""
    connection = await asyncpg.connect(migrated.dsn().reveal())
    yield connection
    await connection.close()
