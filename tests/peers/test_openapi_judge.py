"""ElevenLabs' own OpenAPI document judges our answers: it comes with their command-line tool."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from conftest import Tenant
from support.api import Reply

HERE = Path(__file__).parent
TOOL = HERE / "node_modules" / ".bin" / "elevenlabs"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not TOOL.exists(),
    reason="needs Node.js and 'npm install' in tests/peers (.ci/run does both)",
)


class Judge:
    """Checks an answer against what the document says of that route, method and status."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def check(self, method: str, route: str, reply: Reply) -> None:
        answer = self._document["paths"][route][method]["responses"][str(reply.status)]
        content = answer.get("content", {}).get("application/json")
        if content is None:
            return
        schema = {**content["schema"], "components": self._document["components"]}
        errors = list(jsonschema_rs.validator_for(schema).iter_errors(reply.json))
        assert errors == [], f"{method} {route} {reply.status}: {errors[0].message}"


@pytest.fixture(scope="module")
def judge() -> Judge:
    printed = subprocess.run(
        [TOOL, "--spec-raw"], capture_output=True, timeout=120, check=True, cwd=HERE
    )
    return Judge(json.loads(printed.stdout))


VARIABLES = "/v1/convai/environment-variables"
SECRETS = "/v1/convai/secrets"
CONNECTIONS = "/v1/workspace/auth-connections"


async def test_every_answer_about_variables_fits_the_document(tenant: Tenant, judge: Judge) -> None:
    body = {"type": "string", "label": "a", "values": {"production": "p", "staging": "s"}}
    made = await tenant.api.post(VARIABLES, body)
    one = f"{VARIABLES}/{made.json['id']}"
    judge.check("post", VARIABLES, made)
    judge.check("get", VARIABLES, await tenant.api.get(VARIABLES))
    judge.check("get", VARIABLES + "/{env_var_id}", await tenant.api.get(one))
    changed = await tenant.api.call("PATCH", one, body={"values": {"staging": None}})
    judge.check("patch", VARIABLES + "/{env_var_id}", changed)
    refused = await tenant.api.post(VARIABLES, {**body, "label": "a b"})
    assert refused.status == 422
    judge.check("post", VARIABLES, refused)


async def test_every_answer_about_secrets_fits_the_document(tenant: Tenant, judge: Judge) -> None:
    made = await tenant.api.post(SECRETS, {"type": "new", "name": "n", "value": "v"})
    one = f"{SECRETS}/{made.json['secret_id']}"
    judge.check("post", SECRETS, made)
    judge.check("get", SECRETS, await tenant.api.get(SECRETS))
    judge.check("get", SECRETS + "/{secret_id}", await tenant.api.get(one))
    changed = await tenant.api.call(
        "PATCH", one, body={"type": "update", "name": "m", "value": "w"}
    )
    judge.check("patch", SECRETS + "/{secret_id}", changed)
    uses = SECRETS + "/{secret_id}/dependencies/{resource_type}"
    judge.check("get", uses, await tenant.api.get(f"{one}/dependencies/agents"))
    refused = await tenant.api.get(f"{one}/dependencies/moons")
    assert refused.status == 422
    judge.check("get", uses, refused)
    judge.check("delete", SECRETS + "/{secret_id}", await tenant.api.delete(one))


KINDS: list[dict[str, Any]] = [
    {
        "auth_type": "oauth2_client_credentials",
        "client_id": "c",
        "token_url": "https://auth.example.com/token",
        "client_secret": "s",
    },
    {"auth_type": "basic_auth", "username": "u", "password": "s"},
    {"auth_type": "bearer_auth", "token": "s"},
    {"auth_type": "custom_header_auth", "header_name": "X-Token", "token": "s"},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind["auth_type"]))
async def test_every_answer_about_auth_connections_fits_the_document(
    tenant: Tenant, judge: Judge, kind: dict[str, Any]
) -> None:
    made = await tenant.api.post(CONNECTIONS, {"name": "n", "provider": "p", **kind})
    judge.check("post", CONNECTIONS, made)
    judge.check("get", CONNECTIONS, await tenant.api.get(CONNECTIONS))
    one = f"{CONNECTIONS}/{made.json['id']}"
    judge.check("delete", CONNECTIONS + "/{auth_connection_id}", await tenant.api.delete(one))
