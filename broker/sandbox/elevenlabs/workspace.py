"""What a workspace sets up around its agents: phone numbers, MCP servers, settings, webhooks.

MCP servers are kept, so that what they name counts as used; the sandbox calls none.
"""

import secrets
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType

from broker.sandbox.elevenlabs import agents
from broker.sandbox.elevenlabs.account import Account, Stored, Webhook, new_id
from broker.sandbox.elevenlabs.deliveries import MAX_FAILURES
from broker.sandbox.elevenlabs.wire import (
    Answer,
    Request,
    Route,
    Unprocessable,
    merged,
    not_found,
)


class NewNumber(Struct):
    phone_number: str
    label: str
    provider: Literal["twilio", "sip_trunk", "exotel"] = "twilio"
    supports_inbound: bool = True
    supports_outbound: bool = True
    agent_id: str | None = None


class ChangedNumber(Struct):
    agent_id: str | UnsetType | None = UNSET
    label: str | UnsetType = UNSET
    environment: str | UnsetType | None = UNSET
    branch_id: str | UnsetType | None = UNSET


class NewServer(Struct):
    config: dict[str, Any]


class InitiationWebhook(Struct):
    url: str
    request_headers: dict[str, Any]


class PostCallWebhooks(Struct, omit_defaults=True):
    post_call_webhook_id: str | UnsetType | None = UNSET
    events: list[str] | UnsetType = UNSET
    transcript_format: str | UnsetType = UNSET


class Settings(Struct, omit_defaults=True):
    conversation_initiation_client_data_webhook: InitiationWebhook | UnsetType | None = UNSET
    webhooks: PostCallWebhooks | UnsetType = UNSET


class Hmac(Struct):
    auth_type: Literal["hmac"]
    name: str
    webhook_url: str
    request_headers: dict[str, str] | None = None


class NewWebhook(Struct):
    settings: Hmac


class ChangedWebhook(Struct):
    is_disabled: bool
    name: str
    request_headers: dict[str, str] | UnsetType | None = UNSET


async def list_numbers(request: Request) -> Answer:
    provider, agent_id = request.one("provider"), request.one("agent_id")
    found = [
        one
        for one in request.account.phone_numbers.values()
        if provider in (None, one.config["provider"])
        and agent_id in (None, one.config.get("agent_id"))
    ]
    return Answer([_shown_number(request.account, one) for one in found])


async def make_number(request: Request) -> Answer:
    asked = request.read(NewNumber)
    if asked.agent_id is not None:
        agents.agent_of(request.account, asked.agent_id)
    now = request.world.seconds()
    config = msgspec.to_builtins(asked)
    made = Stored(id=new_id("phnum"), config=config, created_at=now, updated_at=now)
    request.account.phone_numbers[made.id] = made
    return Answer({"phone_number_id": made.id})


async def get_number(request: Request) -> Answer:
    return Answer(_shown_number(request.account, _number(request)))


async def change_number(request: Request) -> Answer:
    found, asked = _number(request), request.read(ChangedNumber)
    if isinstance(asked.agent_id, str):
        agents.agent_of(request.account, asked.agent_id)
    found.config |= msgspec.to_builtins(asked)
    return Answer(_shown_number(request.account, found))


async def delete_number(request: Request) -> Answer:
    del request.account.phone_numbers[_number(request).id]
    return Answer({})


async def list_servers(request: Request) -> Answer:
    kept = request.account.mcp_servers.values()
    return Answer({"mcp_servers": [_shown_server(one) for one in kept]})


async def make_server(request: Request) -> Answer:
    asked, now = request.read(NewServer), request.world.seconds()
    made = Stored(id=new_id("mcp"), config=dict(asked.config), created_at=now, updated_at=now)
    for name in ("url", "name"):
        if name not in made.config:
            raise Unprocessable(["body", "config", name], "Field required", "missing")
    request.account.mcp_servers[made.id] = made
    return Answer(_shown_server(made))


async def get_server(request: Request) -> Answer:
    return Answer(_shown_server(_server(request)))


async def change_server(request: Request) -> Answer:
    found = _server(request)
    found.config = merged(found.config, request.read(dict[str, Any]))
    return Answer(_shown_server(found))


async def delete_server(request: Request) -> Answer:
    del request.account.mcp_servers[_server(request).id]
    return Answer({})


async def get_settings(request: Request) -> Answer:
    return Answer(_shown_settings(request.account))


async def change_settings(request: Request) -> Answer:
    asked = msgspec.to_builtins(request.read(Settings))
    hook = (asked.get("webhooks") or {}).get("post_call_webhook_id")
    if hook is not None and hook not in request.account.webhooks:
        raise not_found("webhook", hook)
    initiation = "conversation_initiation_client_data_webhook"
    replaced = {name: asked.pop(name) for name in (initiation,) if name in asked}
    request.account.settings = merged(request.account.settings, asked) | replaced
    return Answer(_shown_settings(request.account))


async def list_webhooks(request: Request) -> Answer:
    return Answer({"webhooks": [_shown_webhook(one) for one in request.account.webhooks.values()]})


async def make_webhook(request: Request) -> Answer:
    asked = request.read(NewWebhook).settings
    made = Webhook(
        id=new_id("wbhk"),
        name=asked.name,
        url=asked.webhook_url,
        secret="wsec_" + secrets.token_hex(32),
        request_headers=dict(asked.request_headers or {}) or None,
        created_at=request.world.seconds(),
    )
    request.account.webhooks[made.id] = made
    return Answer({"webhook_id": made.id, "webhook_secret": made.secret})


async def change_webhook(request: Request) -> Answer:
    found, asked = _webhook(request), request.read(ChangedWebhook)
    found.name, found.is_disabled = asked.name, asked.is_disabled
    if not asked.is_disabled:
        found.failures = 0
    if not isinstance(asked.request_headers, UnsetType):
        found.request_headers = dict(asked.request_headers or {}) or None
    return Answer({"status": "ok"})


async def delete_webhook(request: Request) -> Answer:
    del request.account.webhooks[_webhook(request).id]
    return Answer({"status": "ok"})


def _number(request: Request) -> Stored:
    name = request.params["id"]
    if (found := request.account.phone_numbers.get(name)) is None:
        raise not_found("phone_number", name)
    return found


def _server(request: Request) -> Stored:
    name = request.params["id"]
    if (found := request.account.mcp_servers.get(name)) is None:
        raise not_found("mcp_server", name)
    return found


def _webhook(request: Request) -> Webhook:
    name = request.params["id"]
    if (found := request.account.webhooks.get(name)) is None:
        raise not_found("webhook", name)
    return found


def _shown_number(account: Account, number: Stored) -> dict[str, Any]:
    config = number.config
    agent = account.agents.get(config.get("agent_id") or "")
    assigned = agent and {
        "agent_id": agent.id,
        "agent_name": agent.config.get("name") or "Sandbox agent",
        "environment": config.get("environment"),
        "branch_id": config.get("branch_id"),
    }
    shown = {
        "phone_number_id": number.id,
        "phone_number": config["phone_number"],
        "label": config["label"],
        "supports_inbound": config["supports_inbound"],
        "supports_outbound": config["supports_outbound"],
        "assigned_agent": assigned,
        "provider": config["provider"],
    }
    return shown | {"livekit_stack": "standard"} if config["provider"] == "sip_trunk" else shown


def _shown_server(server: Stored) -> dict[str, Any]:
    return {
        "id": server.id,
        "config": server.config,
        "access_info": agents.ACCESS,
        "dependent_agents": [],
        "metadata": {"created_at": server.created_at, "owner_user_id": None},
    }


def _shown_settings(account: Account) -> dict[str, Any]:
    return {
        "conversation_initiation_client_data_webhook": None,
        "can_use_mcp_servers": False,
        **account.settings,
        "webhooks": {
            "post_call_webhook_id": None,
            "events": ["transcript"],
            **(account.settings.get("webhooks") or {}),
        },
    }


def _shown_webhook(webhook: Webhook) -> dict[str, Any]:
    status, at = webhook.last_failure or (None, None)
    return {
        "name": webhook.name,
        "webhook_id": webhook.id,
        "webhook_url": webhook.url,
        "is_disabled": webhook.is_disabled,
        "is_auto_disabled": webhook.is_disabled and webhook.failures >= MAX_FAILURES,
        "created_at_unix": webhook.created_at,
        "auth_type": "hmac",
        "most_recent_failure_error_code": status,
        "most_recent_failure_timestamp": at,
    }


_NUMBERS: Final = "/v1/convai/phone-numbers"
_SERVERS: Final = "/v1/convai/mcp-servers"
_SETTINGS: Final = "/v1/convai/settings"
_WEBHOOKS: Final = "/v1/workspace/webhooks"

ROUTES: Final = (
    Route("GET", _NUMBERS, list_numbers),
    Route("POST", _NUMBERS, make_number),
    Route("GET", _NUMBERS + "/{id}", get_number),
    Route("PATCH", _NUMBERS + "/{id}", change_number),
    Route("DELETE", _NUMBERS + "/{id}", delete_number),
    Route("GET", _SERVERS, list_servers),
    Route("POST", _SERVERS, make_server),
    Route("GET", _SERVERS + "/{id}", get_server),
    Route("PATCH", _SERVERS + "/{id}", change_server),
    Route("DELETE", _SERVERS + "/{id}", delete_server),
    Route("GET", _SETTINGS, get_settings),
    Route("PATCH", _SETTINGS, change_settings),
    Route("GET", _WEBHOOKS, list_webhooks),
    Route("POST", _WEBHOOKS, make_webhook),
    Route("PATCH", _WEBHOOKS + "/{id}", change_webhook),
    Route("DELETE", _WEBHOOKS + "/{id}", delete_webhook),
)
