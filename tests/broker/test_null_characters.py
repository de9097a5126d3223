"""A text with a null character, which PostgreSQL cannot keep: refused wherever one can be sent."""

import re
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from conftest import Tenant
from support.api import Reply
from support.eleven import AGENT
from support.minting import Desk, minting
from support.sandbox import Provider

from broker.api.convai.errors import PREFIXES

NULL: Final = "\0"
SENTENCE: Final = "A text holds a character that cannot be kept."
VARIABLES: Final = "/v1/convai/environment-variables"
SECRETS: Final = "/v1/convai/secrets"
AUTH: Final = "/v1/workspace/auth-connections"
ACME: Final = "/v1/integrations/acme"
REGISTRATION: Final = {
    "provider": "oidc",
    "client_id": "c",
    "client_secret": {"secret_id": NULL},
    "variables": {"issuer": "https://issuer.example"},
}
METHODS: Final = {"get", "put", "post", "delete", "patch"}


@pytest.fixture
async def desk(tenant: Tenant, provider: Provider) -> AsyncIterator[Desk]:
    async with minting(tenant, provider) as found:
        await found.user()
        yield found


def assert_refused(reply: Reply, path: str) -> None:
    """As each kind of route says that a request breaks a rule."""
    if path.startswith(PREFIXES):
        detail = reply.json["detail"]
        assert (reply.status, detail["code"]) == (400, "invalid_parameters"), reply.body
        assert detail["message"] == SENTENCE
    else:
        assert (reply.status, reply.code) == (422, "invalid"), reply.body
        assert reply.json["detail"] == SENTENCE


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"{VARIABLES}?label=%00", None),
        ("GET", f"{VARIABLES}/%00", None),
        ("PATCH", f"{VARIABLES}/%00", {"values": {"production": "p"}}),
        ("DELETE", f"{VARIABLES}/%00", None),
        (
            "POST",
            VARIABLES,
            {"type": "secret", "label": "a", "values": {"production": {"secret_id": NULL}}},
        ),
        ("DELETE", "/v1/convai/environments/%00", None),
        ("GET", f"{SECRETS}?search=%00", None),
        ("GET", f"{SECRETS}/%00", None),
        ("PATCH", f"{SECRETS}/%00", {"type": "update", "name": "n", "value": "v"}),
        ("DELETE", f"{SECRETS}/%00", None),
        ("GET", f"{SECRETS}/%00/dependencies/tools", None),
        ("PATCH", f"{AUTH}/%00", {"auth_type": "bearer_auth", "token": "t"}),
        ("DELETE", f"{AUTH}/%00", None),
        ("PUT", ACME, REGISTRATION),
        ("POST", "/v1/conversations", {"agent_id": AGENT, "user_id": "ada", "branch_id": NULL}),
    ],
)
async def test_a_null_character_breaks_a_rule(
    desk: Desk, method: str, path: str, body: Any
) -> None:
    assert_refused(await desk.api.call(method, path, body=body), path)
    assert (await desk.api.get(VARIABLES)).json["environment_variables"] == []


async def test_the_webhook_before_a_call_refuses_it_and_takes_the_next_call(desk: Desk) -> None:
    path = f"/hooks/elevenlabs/{desk.tenant.id}/initiation"
    call = {"caller_id": "", "agent_id": AGENT, "called_number": NULL, "call_sid": "CA1"}
    assert_refused(await desk.api.post(path, call), path)
    assert (await desk.api.post(path, {**call, "called_number": ""})).status == 200


async def test_no_route_breaks_over_one_in_its_path_or_its_query(desk: Desk) -> None:
    document = (await desk.api.get("/schema/openapi.json")).json
    asked = 0
    for path, item in document["paths"].items():
        for method in METHODS & item.keys():
            for url in spoiled(path, item[method], desk.tenant.id):
                body: Any = None if method == "get" else {}
                reply = await desk.api.call(method.upper(), url, body=body)
                assert reply.status < 500, f"{method} {url}: {reply.body!r}"
                if reply.status == 400:
                    assert "400" in item[method]["responses"], f"{method} {url}"
                asked += 1
    assert asked > 100
    assert (await desk.api.get(SECRETS)).status == 200


def spoiled(path: str, operation: Any, workspace: str) -> list[str]:
    """The address with a null character for all that it names, and in each part of the query."""
    named = re.compile(r"\{[^}]*\}")
    good = named.sub("x", path.replace("{workspace_id}", workspace))
    given = operation.get("parameters", [])
    urls = [f"{good}?{one['name']}=%00" for one in given if one["in"] == "query"]
    return [*urls, named.sub("%00", path)] if named.search(path) else urls
