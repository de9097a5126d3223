"""Prism stands in front of the stand-in with ElevenLabs' own document, and finds no violation.

It judges what we send and what is answered. The document comes with ElevenLabs' command-line tool;
two of its references lead nowhere, and are put right here.
"""

import asyncio
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.api import Api, Reply
from support.eleven import AGENT, Eleven, pretending
from support.ports import free_port

from broker.sandbox.elevenlabs.app import ROUTES

HERE = Path(__file__).parent
TOOL = HERE / "node_modules" / ".bin" / "elevenlabs"
PRISM = HERE / "node_modules" / ".bin" / "prism"
STARTS = 120.0  # seconds that a tool may take to read the document
HOLE = re.compile(r"\{\w+\}")

# Served, and not in the document: what the SDKs call and the pages describe.
UNDOCUMENTED = {
    ("GET", "/v1/convai/environments"),
    ("POST", "/v1/convai/environments"),
    ("DELETE", "/v1/convai/environments/{}"),
    ("DELETE", "/v1/convai/environment-variables/{}"),
    ("GET", "/v1/convai/conversation/get_signed_url"),
}

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not TOOL.exists() or not PRISM.exists(),
    reason="needs Node.js and 'npm install' in tests/peers (.ci/run does both)",
)


def document() -> dict[str, Any]:
    """ElevenLabs' document, but for the routes that the stand-in does not serve."""
    printed = subprocess.run(
        [TOOL, "--spec-raw"], capture_output=True, timeout=STARTS, check=True, cwd=HERE
    )
    found: dict[str, Any] = json.loads(printed.stdout)
    schemas = found["components"]["schemas"]
    for side in ("Input", "Output"):
        schemas.setdefault(f"DynamicVariablesConfig-{side}", schemas["DynamicVariablesConfig"])
    ours = {path for _, path in served()}
    paths = {path: one for path, one in found["paths"].items() if HOLE.sub("{}", path) in ours}
    used = dict(needed(paths, schemas))
    return {
        "openapi": found["openapi"],
        "info": found["info"],
        "servers": [{"url": "http://127.0.0.1"}],
        "paths": paths,
        "components": {"schemas": used},
    }


def needed(held: Any, schemas: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas that this part of the document refers to."""
    seen: set[str] = set()
    waiting = [held]
    while waiting:
        for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(waiting.pop())):
            if name not in seen:
                seen.add(name)
                waiting.append(schemas[name])
                yield name, schemas[name]


def served() -> set[tuple[str, str]]:
    return {(one.method, HOLE.sub("{}", one.pattern)) for one in ROUTES.table}


class Judged:
    """Asks by way of Prism, and remembers what was asked."""

    def __init__(self, api: Api, document: dict[str, Any]) -> None:
        self._api = api
        self._paths = [*document["paths"]]
        self.asked: set[tuple[str, str]] = set()

    async def __call__(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"xi-api-key": "sandbox"}
        reply = await self._api.call(method, path, body=body, headers=headers)
        self._judge(method, path, reply)
        self.asked.add((method, self._template(path.partition("?")[0])))
        return reply.json if reply.body.startswith((b"{", b"[")) else None

    def _judge(self, method: str, path: str, reply: Reply) -> None:
        kind = reply.headers.get("Content-Type", "")
        assert "problem" not in kind, f"{method} {path}: {reply.body.decode()}"
        assert "sl-violations" not in reply.headers, reply.headers["sl-violations"]
        assert reply.status < 300, f"{method} {path}: {reply.status} {reply.body.decode()}"

    def _template(self, path: str) -> str:
        exact = [one for one in self._paths if one == path]
        fitting = [one for one in self._paths if re.fullmatch(HOLE.sub("[^/]+", one), path)]
        return HOLE.sub("{}", (exact or fitting)[0])


@pytest.fixture
async def eleven() -> AsyncIterator[Eleven]:
    async with pretending() as found:
        yield found


@pytest.fixture
async def judged(eleven: Eleven, tmp_path: Path) -> AsyncIterator[Judged]:
    found = document()
    file = tmp_path / "openapi.json"
    file.write_text(json.dumps(found))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(PRISM, "proxy", "--errors", file, eleven.base, "-p", str(port)),
        cwd=HERE,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    reading = asyncio.create_task(_until_listening(process.stdout))
    try:
        await asyncio.wait_for(asyncio.shield(reading), STARTS)
        draining = asyncio.create_task(process.stdout.read())
        async with aiohttp.ClientSession() as session:
            yield Judged(Api(session, f"http://127.0.0.1:{port}"), found)
        process.terminate()
        await draining
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_listening(stdout: asyncio.StreamReader) -> None:
    said = b""
    while b"Prism is listening" not in said:
        line = await stdout.readline()
        assert line, said.decode()
        said += line


async def variables(ask: Judged) -> None:
    path = "/v1/convai/environment-variables"
    values = {"production": "p", "staging": "s"}
    made = await ask("POST", path, {"type": "string", "label": "host", "values": values})
    await ask("GET", f"{path}?page_size=10&environment=staging")
    await ask("GET", f"{path}/{made['id']}")
    await ask("PATCH", f"{path}/{made['id']}", {"values": {"staging": None}})


async def secrets(ask: Judged) -> str:
    path = "/v1/convai/secrets"
    made = await ask("POST", path, {"type": "new", "name": "n", "value": "v"})
    gone = await ask("POST", path, {"type": "new", "name": "gone", "value": "v"})
    await ask("PATCH", f"{path}/{gone['secret_id']}", {"type": "update", "name": "m", "value": "w"})
    await ask("DELETE", f"{path}/{gone['secret_id']}")
    return str(made["secret_id"])


async def connections(ask: Judged) -> None:
    path = "/v1/workspace/auth-connections"
    named = {"name": "n", "provider": "p"}
    token = {"client_id": "c", "client_secret": "s", "token_url": "https://x.test/t"}
    claims = {"issuer": "i", "audience": "a", "subject": "s", "secret_key": "k"}
    pem = "-----BEGIN CERTIFICATE-----"
    for kind in (
        {"auth_type": "oauth2_client_credentials", **token, "scopes": ["a"]},
        {"auth_type": "oauth2_jwt", **claims, "token_url": "https://x.test/t"},
        {"auth_type": "private_key_jwt", **claims},
        {"auth_type": "basic_auth", "username": "u", "password": "p"},
        {"auth_type": "bearer_auth", "token": "t"},
        {"auth_type": "custom_header_auth", "header_name": "X-T", "token": "t"},
        {"auth_type": "mtls", "client_certificate": pem, "client_key": pem},
    ):
        made = await ask("POST", path, {**named, **kind})
        if kind["auth_type"] == "basic_auth":
            changed = {"auth_type": "basic_auth", "username": "v"}
            await ask("PATCH", f"{path}/{made['id']}", changed)
            await ask("DELETE", f"{path}/{made['id']}")
    await ask("GET", path)


async def agents_and_tools(ask: Judged, secret_id: str) -> None:
    reference = {"secret_id": secret_id}
    schema = {
        "url": "https://{{system__env_host}}/orders/{id}",
        "method": "POST",
        "path_params_schema": {"id": {"type": "string", "description": "Which"}},
        "request_headers": {
            "X-Key": reference,
            "Authorization": {"variable_name": "secret__auth"},
        },
        "request_body_schema": {
            "type": "object",
            "properties": {"note": {"type": "string", "description": "A note"}},
        },
    }
    tool = {
        "type": "webhook",
        "name": "orders",
        "description": "Orders.",
        "api_schema": schema,
        "assignments": [
            {"dynamic_variable": "secret__auth", "value_path": "token", "sanitize": True}
        ],
    }
    path = "/v1/convai/tools"
    made = await ask("POST", path, {"tool_config": tool})
    await ask("GET", path)
    await ask("GET", f"{path}/{made['id']}")
    await ask("PATCH", f"{path}/{made['id']}", {"tool_config": tool})
    agent = {"agent": {"first_message": "Hi", "prompt": {"prompt": "Be kind."}}}
    path = "/v1/convai/agents"
    found = await ask("POST", f"{path}/create", {"conversation_config": agent, "name": "Desk"})
    one = f"{path}/{found['agent_id']}"
    await ask("GET", path)
    await ask("GET", one)
    await ask("PATCH", one, {"name": "Counter"})
    uses = f"/v1/convai/secrets/{secret_id}/dependencies"
    await ask("GET", f"{uses}/tools?page_size=5")
    await ask("GET", "/v1/convai/secrets")
    await ask("GET", f"/v1/convai/secrets/{secret_id}")
    await ask("DELETE", f"/v1/convai/tools/{made['id']}")
    await ask("DELETE", one)
    path = "/v1/convai/mcp-servers"
    server = {"url": "https://x.test/mcp", "name": "s", "secret_token": reference}
    made = await ask("POST", path, {"config": server})
    await ask("GET", path)
    await ask("GET", f"{path}/{made['id']}")
    await ask("PATCH", f"{path}/{made['id']}", {"disable_compression": True})
    await ask("DELETE", f"{path}/{made['id']}")


async def telephone(ask: Judged) -> None:
    path = "/v1/convai/phone-numbers"
    numbers = {}
    for provider, more in (
        ("twilio", {"sid": "AC" + "0" * 32, "token": "t"}),
        ("sip_trunk", {}),
        (
            "exotel",
            {
                "account_sid": "a",
                "api_subdomain": "api.exotel.com",
                "app_id": "i",
                "api_key": "k",
                "api_token": "t",
            },
        ),
    ):
        body = {"phone_number": "+15550001", "label": "Desk", "provider": provider, **more}
        numbers[provider] = (await ask("POST", path, body))["phone_number_id"]
        one = f"{path}/{numbers[provider]}"
        await ask("PATCH", one, {"agent_id": AGENT, "environment": "staging"})
        await ask("GET", one)
    await ask("GET", path)
    data = {"dynamic_variables": {"secret__auth": "Bearer abc"}, "environment": "staging"}
    call = {"agent_id": AGENT, "conversation_initiation_client_data": data}
    for route, provider in (
        ("twilio", "twilio"),
        ("sip-trunk", "sip_trunk"),
        ("exotel", "exotel"),
    ):
        called = {**call, "agent_phone_number_id": numbers[provider], "to_number": "+1"}
        await ask("POST", f"/v1/convai/{route}/outbound-call", called)
    await ask(
        "POST", "/v1/convai/twilio/register-call", {**call, "from_number": "+1", "to_number": "+2"}
    )
    whatsapp = {**call, "whatsapp_phone_number_id": "w", "whatsapp_user_id": "u"}
    template = "whatsapp_call_permission_request_template"
    permission = {f"{template}_name": "t", f"{template}_language_code": "en"}
    await ask("POST", "/v1/convai/whatsapp/outbound-call", {**whatsapp, **permission})
    message = {"template_name": "t", "template_language_code": "en", "template_params": []}
    await ask("POST", "/v1/convai/whatsapp/outbound-message", {**whatsapp, **message})
    batch = {
        "call_name": "Round",
        "agent_id": AGENT,
        "recipients": [{"phone_number": "+1", "conversation_initiation_client_data": data}],
        "agent_phone_number_id": numbers["twilio"],
    }
    await ask("POST", "/v1/convai/batch-calling/submit", batch)
    await ask("DELETE", f"{path}/{numbers['exotel']}")


async def settings(ask: Judged) -> None:
    path = "/v1/workspace/webhooks"
    asked = {"auth_type": "hmac", "name": "n", "webhook_url": "https://x.test/"}
    made = await ask("POST", path, {"settings": asked})
    one = f"{path}/{made['webhook_id']}"
    await ask("PATCH", one, {"name": "m", "is_disabled": False})
    await ask("GET", path)
    hook = {"url": "https://x.test/", "request_headers": {"X": "y"}}
    chosen = {"post_call_webhook_id": made["webhook_id"], "events": ["transcript"]}
    body = {"conversation_initiation_client_data_webhook": hook, "webhooks": chosen}
    await ask("PATCH", "/v1/convai/settings", body)
    await ask("GET", "/v1/convai/settings")
    await ask("DELETE", one)


async def conversation(ask: Judged, eleven: Eleven) -> None:
    """One that has called a tool and failed at it, as well as one that answered."""
    tool_id = await eleven.tool(api_schema={"url": "http://127.0.0.1:1/"})
    await eleven.agent(prompt={"tool_ids": [tool_id]})
    minted = "/v1/convai/conversation"
    await ask("GET", f"{minted}/token?agent_id={AGENT}&environment=staging")
    found = await ask("GET", f"{minted}/get-signed-url?agent_id={AGENT}")
    query = found["signed_url"].partition("?")[2]
    async with eleven.talking(f"{eleven.base}{minted}?{query}") as talk:
        await talk.say("hello")
        await talk.response()
        await eleven.call_tool(talk)
    path = "/v1/convai/conversations"
    await ask("GET", f"{path}?agent_id={AGENT}&page_size=5")
    await ask("GET", f"{path}/{talk.conversation_id}")
    await ask("DELETE", f"{path}/{talk.conversation_id}")


async def test_the_document_finds_nothing_wrong_with_any_route_that_we_serve(
    eleven: Eleven, judged: Judged
) -> None:
    await eleven.agent()
    await variables(judged)
    await agents_and_tools(judged, await secrets(judged))
    await connections(judged)
    await telephone(judged)
    await settings(judged)
    await conversation(judged, eleven)
    assert served() - UNDOCUMENTED == judged.asked
