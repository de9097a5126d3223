"""Integrations and connections at the terminal, and what happens by itself."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator

import aiohttp
import pytest
from conftest import Tenant
from support.api import Api, Running
from support.connecting import SECRET, integrate
from support.journeys import Clock, connected, made
from support.process import Deployment, deployment
from support.sandbox import Provider, providing
from support.visitor import Visitor

from broker.sandbox import Client, Faults
from vault import scheduler
from vault.vault import Vault


@pytest.fixture(scope="module")
async def outside() -> AsyncIterator[Provider]:
    async with providing() as found:
        yield found


@pytest.fixture(scope="module")
async def place() -> AsyncIterator[tuple[Deployment, Api]]:
    """An operator's deployment, with one replica and a client of its first workspace."""
    with deployment(egress_allow="127.0.0.1") as found:
        replica, key = await found.one_replica()
        async with aiohttp.ClientSession() as session:
            yield found, Api(session, replica.base, key)


async def at_terminal(
    operator: Deployment, *words: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command; the sandbox, which lives in this process, answers meanwhile."""
    return await asyncio.to_thread(operator.command, *words, stdin=stdin)


def registration(outside: Provider, **more: object) -> str:
    issuer = {"issuer": outside.base}
    body = {"provider": "oidc", "client_id": "app", "variables": issuer, **more}
    return json.dumps(body)


async def test_an_integration_is_put_checked_and_deleted_at_the_terminal(
    place: tuple[Deployment, Api], outside: Provider
) -> None:
    operator, api = place
    secret = operator.folder / "secret"
    secret.write_text(SECRET + "\n")
    put = await at_terminal(operator,
        "integration", "put", "acme", "-", "--client-secret-file", str(secret),
        stdin=registration(outside),
    )  # fmt: skip
    assert put.returncode == 0, put.stderr
    callback = "/oauth/oidc/acme/callback"
    assert callback in put.stdout
    assert SECRET not in put.stdout + put.stderr
    assert made(await api.get("/v1/integrations/acme"))["client_secret"] == [None]

    outside.state.clients["app"] = Client(secret=SECRET)
    green = await at_terminal(operator, "integration", "check", "acme")
    assert (green.returncode, green.stderr) == (0, ""), green.stdout
    assert [line.split()[0] for line in green.stdout.splitlines()] == ["ok"] * 4
    assert "The provider knows this client" in green.stdout

    outside.state.clients["app"] = Client(secret="another")
    red = await at_terminal(operator, "integration", "check", "acme")
    assert red.returncode == 1
    assert "BAD client: " in red.stdout
    told = json.loads(
        (await at_terminal(operator, "integration", "check", "acme", "--json")).stdout
    )
    assert [one["what"] for one in told if not one["ok"]] == ["client"]

    shown = await at_terminal(operator, "integration", "show", "acme", "--json")
    assert json.loads(shown.stdout)["id"] == "acme"
    assert SECRET not in shown.stdout
    assert "acme" in (await at_terminal(operator, "integration", "list")).stdout
    gone = await at_terminal(operator, "integration", "delete", "acme")
    assert gone.returncode == 0
    missing = await at_terminal(operator, "integration", "check", "acme")
    assert missing.returncode == 1
    assert missing.stderr.startswith("keyturn: ")


async def test_what_is_no_integration_is_refused_in_a_sentence(
    place: tuple[Deployment, Api], outside: Provider
) -> None:
    operator, _ = place
    for wrong in ("{", registration(outside, provider="nothing"), '{"provider": 1}'):
        refused = await at_terminal(operator, "integration", "put", "wrong", "-", stdin=wrong)
        assert refused.returncode in (1, 2)
        assert "Traceback" not in refused.stderr
        assert refused.stderr.strip()


async def test_an_integration_has_an_id_that_http_knows_too(
    place: tuple[Deployment, Api],
) -> None:
    operator, _ = place
    before = await at_terminal(operator, "integration", "list", "--json")
    for name in ("bad!", "Desk", "9desk", "d" * 49, "desk\n"):
        refused = await at_terminal(
            operator, "integration", "put", name, "-", stdin='{"provider": "basic"}'
        )
        assert (refused.returncode, refused.stderr) == (
            1,
            "keyturn: This is no integration's id.\n",
        )
    listed = await at_terminal(operator, "integration", "list", "--json")
    assert json.loads(listed.stdout) == json.loads(before.stdout)


async def test_connections_are_listed_shown_and_deleted_at_the_terminal_and_no_token_is_printed(
    place: tuple[Deployment, Api],
) -> None:
    operator, api = place
    made(await api.put("/v1/integrations/desk", {"provider": "api-key"}))
    path = "/v1/users/ada/connections/desk"
    found = made(await api.put(path, {"api_key": "sentinel"}))
    listed = await at_terminal(operator, "connection", "list", "--user", "ada")
    assert found["id"] in listed.stdout
    assert "does not expire" in listed.stdout
    nowhere = await at_terminal(operator, "connection", "list", "--state", "nowhere")
    assert (nowhere.returncode, nowhere.stdout) == (2, "")
    shown = await at_terminal(operator, "connection", "show", found["id"])
    assert json.loads(shown.stdout)["state"] == "active"
    deleted = await at_terminal(operator, "connection", "delete", found["id"])
    assert "deleted, nothing_to_revoke" in deleted.stdout
    assert "sentinel" not in listed.stdout + shown.stdout + deleted.stdout
    assert (await api.get(path)).status == 404
    events = made(await api.get("/v1/audit-events?action=connection.delete"))["data"]
    assert events[0]["actor"]["kind"] == "operator"


async def test_what_could_not_be_given_back_is_given_back_by_the_scheduler(
    tenant: Tenant,
    service: Running,
    provider: Provider,
    ada: Visitor,
    vault: Vault,
    clock: Clock,
) -> None:
    await integrate(tenant.api, provider, f"{service.base}/oauth/oidc/acme/callback")
    mine = await connected(tenant.api, ada)
    provider.misbehave(Faults(status=503, path="/oauth/revoke"))
    assert made(await tenant.api.delete(f"/v1/connections/{mine['id']}"))["revoked"] == "retrying"
    provider.misbehave(None)
    await clock.revocations_are_due(tenant.id)
    job = scheduler.Job("revocations", 0.2, vault.retry_revocations)
    async with scheduler.ticking([job]), asyncio.timeout(60):
        while [one.ended for one in provider.state.ledger.rows()] != ["revoked"]:  # noqa: ASYNC110 - the sandbox tells nobody
            await asyncio.sleep(0.05)
