"""The unmodified official JavaScript SDK, pointed at us; it parses every answer strictly.

Version 2.73 knows neither environments nor the deletion of a variable; those are raw HTTP.
"""

import asyncio
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Tenant
from support.loopback import Authority

HERE = Path(__file__).parent
NODE = shutil.which("node")
INSTALLED = (HERE / "node_modules" / "@elevenlabs" / "elevenlabs-js").is_dir()

pytestmark = pytest.mark.skipif(
    NODE is None or not INSTALLED,
    reason="needs Node.js and 'npm install' in tests/peers (.ci/run does both)",
)

Call = tuple[str, list[Any]]


async def run(tenant: Tenant, calls: list[Call], *, key: str | None = None) -> list[Any]:
    """Make the calls, one after the other, in one Node process."""
    asked = {"baseUrl": tenant.api.base, "apiKey": key or tenant.key, "calls": calls}
    process = await asyncio.create_subprocess_exec(
        NODE or "node",
        "sdk.mjs",
        cwd=HERE,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(json.dumps(asked).encode()), 120)
    assert process.returncode == 0, err.decode()
    outcomes: list[Any] = json.loads(out)
    return outcomes


def values(outcomes: list[Any]) -> list[Any]:
    assert [one["error"] for one in outcomes if "error" in one] == []
    return [one["value"] for one in outcomes]


async def test_variables_of_each_type_come_back_field_by_field(tenant: Tenant) -> None:
    text = {"production": "api", "staging": "staging.api", "development": "dev.api"}
    bearer = {"authType": "bearer_auth", "name": "orders", "provider": "acme", "token": "t"}
    secret, connection, host, key, creds, listed, read = values(
        await run(
            tenant,
            [
                ("conversationalAi.secrets.create", [{"name": "orders", "value": "s3cret"}]),
                ("workspace.authConnections.create", [bearer]),
                (
                    "environmentVariables.create",
                    [{"type": "string", "label": "api_host", "values": text}],
                ),
                (
                    "environmentVariables.create",
                    [
                        {
                            "type": "secret",
                            "label": "api_key",
                            "values": {"production": {"secretId": "$0.secretId"}},
                        }
                    ],
                ),
                (
                    "environmentVariables.create",
                    [
                        {
                            "type": "auth_connection",
                            "label": "oauth_creds",
                            "values": {"production": {"authConnectionId": "$1.id"}},
                        }
                    ],
                ),
                ("environmentVariables.list", [{"pageSize": 100}]),
                ("environmentVariables.get", ["$2.id"]),
            ],
        )
    )
    assert host["values"] == text
    assert key["values"] == {"production": {"secretId": secret["secretId"]}}
    assert creds["values"] == {"production": {"authConnectionId": connection["id"]}}
    assert listed["environmentVariables"] == [host, key, creds]
    assert (listed["hasMore"], read) == (False, host)
    for one in (host, key, creds):
        assert {"id", "workspaceId", "createdAtUnixSecs", "updatedAtUnixSecs"} <= one.keys()


async def test_filters_cursors_and_updates_with_null(tenant: Tenant) -> None:
    first = {"type": "string", "label": "a", "values": {"production": "p", "staging": "s"}}
    second = {"type": "string", "label": "b", "values": {"production": "p"}}
    outcomes = values(
        await run(
            tenant,
            [
                ("environmentVariables.create", [first]),
                ("environmentVariables.create", [second]),
                ("environmentVariables.list", [{"environment": "staging"}]),
                ("environmentVariables.list", [{"pageSize": 1}]),
                ("environmentVariables.list", [{"pageSize": 1, "cursor": "$3.nextCursor"}]),
                ("environmentVariables.list", [{"label": "b"}]),
                ("environmentVariables.list", [{"type": "secret"}]),
                (
                    "environmentVariables.update",
                    ["$0.id", {"values": {"staging": None, "dev-us-east": "d"}}],
                ),
            ],
        )
    )
    labels = [[v["label"] for v in one["environmentVariables"]] for one in outcomes[2:7]]
    assert labels == [["a"], ["a"], ["b"], ["b"], []]
    assert outcomes[2]["environmentVariables"][0]["values"] == {"staging": "s"}
    assert (outcomes[3]["hasMore"], outcomes[4]["hasMore"]) == (True, False)
    assert outcomes[7]["values"] == {"production": "p", "dev-us-east": "d"}


async def test_secrets_from_creation_to_deletion(tenant: Tenant) -> None:
    outcomes = await run(
        tenant,
        [
            ("conversationalAi.secrets.create", [{"name": "stripe", "value": "v"}]),
            ("conversationalAi.secrets.list", [{"search": "str"}]),
            ("conversationalAi.secrets.get", ["$0.secretId"]),
            ("conversationalAi.secrets.update", ["$0.secretId", {"name": "n", "value": "w"}]),
            ("conversationalAi.secrets.delete", ["$0.secretId"]),
            ("conversationalAi.secrets.get", ["$0.secretId"]),
        ],
    )
    made, listed, read, updated, deleted, gone = outcomes
    assert listed["value"]["secrets"] == [read["value"]]
    assert read["value"]["usedBy"]["tools"] == []
    assert updated["value"] == {**made["value"], "name": "n"}
    assert deleted == {"value": None}
    assert gone["status"] == 404


KINDS: list[dict[str, Any]] = [
    {
        "authType": "oauth2_client_credentials",
        "clientId": "c",
        "tokenUrl": "https://auth.example.com/token",
        "clientSecret": "s3cret",
        "scopes": ["a"],
    },
    {
        "authType": "oauth2_jwt",
        "issuer": "i",
        "audience": "a",
        "subject": "s",
        "tokenUrl": "https://auth.example.com/token",
        "secretKey": "s3cret-key-that-is-long-enough-for-hs256",
    },
    {
        "authType": "private_key_jwt",
        "issuer": "i",
        "audience": "a",
        "subject": "s",
        "secretKey": "s3cret-key-that-is-long-enough-for-hs256",
    },
    {"authType": "basic_auth", "username": "u", "password": "s3cret"},
    {"authType": "bearer_auth", "token": "s3cret"},
    {"authType": "custom_header_auth", "headerName": "X-Token", "token": "s3cret"},
]


async def test_each_kind_of_auth_connection_is_understood(tenant: Tenant, tmp_path: Path) -> None:
    pem = Authority(tmp_path).chain("client").read_text()
    certificate = {"authType": "mtls", "clientCertificate": pem, "clientKey": pem}
    kinds = enumerate([*KINDS, certificate])
    named = [{"name": f"n{index}", "provider": "acme", **kind} for index, kind in kinds]
    calls: list[Call] = [("workspace.authConnections.create", [one]) for one in named]
    calls.append(("workspace.authConnections.list", []))
    *made, listed = values(await run(tenant, calls))
    assert listed["authConnections"] == made
    for asked, shown in zip(named, made, strict=True):
        assert not re.search("s3cret|-----BEGIN", json.dumps(shown))
        expected = {
            name: value
            for name, value in asked.items()
            if not re.search("s3cret|-----BEGIN", str(value))
        }
        assert expected.items() <= shown.items()


async def test_errors_arrive_as_the_sdk_knows_them(tenant: Tenant) -> None:
    variable = {"type": "string", "label": "a", "values": {"production": "p"}}
    outcomes = await run(
        tenant,
        [
            ("environmentVariables.create", [variable]),
            ("environmentVariables.create", [variable]),
            ("environmentVariables.create", [{**variable, "label": "no spaces"}]),
            ("environmentVariables.create", [{**variable, "label": "b", "values": {"s": "x"}}]),
            ("environmentVariables.get", ["envvar_unknown"]),
        ],
    )
    assert [one.get("status") for one in outcomes[1:]] == [409, 422, 400, 404]
    refused = await run(tenant, [("environmentVariables.list", [])], key="wrong")
    assert refused[0]["status"] == 401


async def test_what_the_sdk_does_not_know_works_over_plain_http(tenant: Tenant) -> None:
    made = await tenant.api.post("/v1/convai/environments", {"name": "qa"})
    assert (made.status, made.json["name"]) == (200, "qa")
    variable = await tenant.api.post(
        "/v1/convai/environment-variables",
        {"type": "string", "label": "a", "values": {"production": "p"}},
    )
    deleted = await tenant.api.delete(f"/v1/convai/environment-variables/{variable.json['id']}")
    assert (deleted.status, deleted.body) == (204, b"")
