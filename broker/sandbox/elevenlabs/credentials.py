"""Secrets and auth connections, as ElevenLabs keeps them.

* A secret's value, and what is secret of an auth connection, never comes back.
* Who uses a secret is looked up in tools, agents, MCP servers, environment variables and the
  settings. A secret that is in use cannot be deleted: the status is not documented; here it is 409.
* Four kinds of auth connections can be changed. What is sent is laid over what is there, objects
  key by key, ``null`` removes a key; a name and a token URL stay.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

from broker.sandbox.elevenlabs.account import Account, AuthConnection, Secret, Stored, new_id
from broker.sandbox.elevenlabs.wire import (
    Answer,
    Refused,
    Request,
    Route,
    Unprocessable,
    not_found,
    page,
)

# By kind: what must be there, and what never comes back.
AUTH_KINDS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "oauth2_client_credentials": (("client_id", "token_url", "client_secret"), ("client_secret",)),
    "oauth2_jwt": (("issuer", "audience", "subject", "token_url", "secret_key"), ("secret_key",)),
    "private_key_jwt": (("issuer", "audience", "subject", "secret_key"), ("secret_key",)),
    "basic_auth": (("username", "password"), ("password",)),
    "bearer_auth": (("token",), ("token",)),
    "custom_header_auth": (("header_name", "token"), ("token",)),
    "mtls": (
        ("client_certificate", "client_key"),
        ("client_certificate", "client_key", "ca_certificate", "key_passphrase"),
    ),
}
UPDATABLE: Final = ("oauth2_client_credentials", "oauth2_jwt", "basic_auth", "bearer_auth")
LASTING: Final = ("auth_type", "name", "token_url")
WEBHOOK: Final = "conversation_initiation_webhook"


class NewSecret(Struct):
    type: Literal["new"]
    name: str
    value: str


class ChangedSecret(Struct):
    type: Literal["update"]
    name: str
    value: str


async def list_secrets(request: Request) -> Answer:
    prefix = request.one("search") or ""
    found = [one for one in request.account.secrets.values() if one.name.startswith(prefix)]
    cut, cursor = page(request, found, lambda one: one.secret_id, default=None)
    shown = [_shown_secret(request.account, one) for one in cut]
    return Answer({"secrets": shown, "next_cursor": cursor})


async def make_secret(request: Request) -> Answer:
    asked = request.read(NewSecret)
    made = Secret(secret_id=new_id("secret"), name=asked.name, value=asked.value)
    request.account.secrets[made.secret_id] = made
    return Answer({"type": "stored", "secret_id": made.secret_id, "name": made.name})


async def get_secret(request: Request) -> Answer:
    return Answer(_shown_secret(request.account, _secret(request)))


async def change_secret(request: Request) -> Answer:
    found, asked = _secret(request), request.read(ChangedSecret)
    found.name, found.value = asked.name, asked.value
    return Answer({"type": "stored", "secret_id": found.secret_id, "name": found.name})


async def delete_secret(request: Request) -> Answer:
    found, account = _secret(request), request.account
    variables = [one.values for one in account.variables.values()]
    if any(_used_by(account, found.secret_id).values()) or _names(variables, found.secret_id):
        raise Refused(409, "in_use", f"The secret '{found.name}' is in use.")
    del account.secrets[found.secret_id]
    return Answer(status=204)


async def list_dependencies(request: Request) -> Answer:
    kept = {
        "tools": request.account.tools,
        "agents": request.account.agents,
        "phone_numbers": request.account.phone_numbers,
    }.get(request.params["kind"])
    if kept is None:
        problem = "Input should be 'tools', 'agents' or 'phone_numbers'"
        raise Unprocessable(["path", "resource_type"], problem, "enum")
    users = _users(kept, _secret(request).secret_id)
    cut, cursor = page(request, users, lambda one: str(one["id"]))
    return Answer({"dependencies": cut, "next_cursor": cursor})


async def list_connections(request: Request) -> Answer:
    found = request.account.auth_connections.values()
    return Answer({"auth_connections": [_shown_connection(one) for one in found]})


async def make_connection(request: Request) -> Answer:
    asked = request.read(dict[str, Any])
    kind = asked.get("auth_type")
    if kind not in AUTH_KINDS:
        raise Unprocessable(["body", "auth_type"], f"Input should be one of {[*AUTH_KINDS]}")
    for name in ("name", "provider", *AUTH_KINDS[kind][0]):
        if not isinstance(asked.get(name), str):
            raise Unprocessable(["body", name], "Field required", "missing")
    made = AuthConnection(id=new_id("auth"), config=asked)
    request.account.auth_connections[made.id] = made
    return Answer(_shown_connection(made))


async def change_connection(request: Request) -> Answer:
    found, asked = _connection(request), request.read(dict[str, Any])
    kind = found.config["auth_type"]
    if kind not in UPDATABLE or asked.get("auth_type", kind) != kind:
        raise Refused(400, "invalid_parameters", f"A connection of kind '{kind}' cannot be this.")
    changes = {name: one for name, one in asked.items() if name not in LASTING and one is not None}
    found.config = {
        **found.config,
        **{name: _laid_over(found.config.get(name), one) for name, one in changes.items()},
    }
    found.token = None
    return Answer(_shown_connection(found))


async def delete_connection(request: Request) -> Answer:
    del request.account.auth_connections[_connection(request).id]
    return Answer({})


def _laid_over(before: object, value: object) -> object:
    if not isinstance(before, dict) or not isinstance(value, dict):
        return value
    return {name: one for name, one in {**before, **value}.items() if one is not None}


def _secret(request: Request) -> Secret:
    name = request.params["id"]
    if (found := request.account.secrets.get(name)) is None:
        raise not_found("secret", name)
    return found


def _connection(request: Request) -> AuthConnection:
    name = request.params["id"]
    if (found := request.account.auth_connections.get(name)) is None:
        raise not_found("auth_connection", name)
    return found


def _names(held: object, secret_id: str) -> bool:
    """Does this configuration refer to the secret?"""
    if isinstance(held, dict):
        return held.get("secret_id") == secret_id or _names([*held.values()], secret_id)
    return isinstance(held, list) and any(_names(one, secret_id) for one in held)


def _users(kept: Mapping[str, Stored], secret_id: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "available",
            "id": one.id,
            "name": str(one.config.get("name") or one.config.get("label") or one.id),
            "created_at_unix_secs": one.created_at,
            "access_level": "admin",
        }
        for one in kept.values()
        if _names(one.config, secret_id)
    ]


def _used_by(account: Account, secret_id: str) -> dict[str, list[Any]]:
    agents = _users(account.agents, secret_id)
    return {
        "tools": _users(account.tools, secret_id),
        "agents": [{**one, "referenced_resource_ids": []} for one in agents],
        "mcp_servers": _users(account.mcp_servers, secret_id),
        "phone_numbers": _users(account.phone_numbers, secret_id),
        "others": [WEBHOOK] if _names(account.settings, secret_id) else [],
    }


def _shown_secret(account: Account, secret: Secret) -> dict[str, Any]:
    return {
        "type": "stored",
        "secret_id": secret.secret_id,
        "name": secret.name,
        "used_by": _used_by(account, secret.secret_id),
    }


def _shown_connection(connection: AuthConnection) -> dict[str, Any]:
    hidden = AUTH_KINDS[connection.config["auth_type"]][1]
    shown = {name: value for name, value in connection.config.items() if name not in hidden}
    return {**shown, "id": connection.id, "status": connection.status}


_SECRETS: Final = "/v1/convai/secrets"
_CONNECTIONS: Final = "/v1/workspace/auth-connections"

ROUTES: Final = (
    Route("GET", _SECRETS, list_secrets),
    Route("POST", _SECRETS, make_secret),
    Route("GET", _SECRETS + "/{id}", get_secret),
    Route("PATCH", _SECRETS + "/{id}", change_secret),
    Route("DELETE", _SECRETS + "/{id}", delete_secret),
    Route("GET", _SECRETS + "/{id}/dependencies/{kind}", list_dependencies),
    Route("GET", _CONNECTIONS, list_connections),
    Route("POST", _CONNECTIONS, make_connection),
    Route("PATCH", _CONNECTIONS + "/{id}", change_connection),
    Route("DELETE", _CONNECTIONS + "/{id}", delete_connection),
)
