"""How every route is called by the attack matrix, and what in a request can name a thing.

* A route, an id in a path, a query parameter or a field of a body that is not here fails
  ``test_isolation.py`` with a sentence.
* In a request ``{id}`` stands for what is attacked, ``{cursor}`` for a page after it, ``{fresh}``
  for a name that is new, ``{outside}`` for a server that tools may call, and ``{mine}``,
  ``{agent}``, ``{integration}``, ``{user}``, ``{session}`` and ``{endpoint}`` for a variable, an
  agent, an integration, a user, a connect session and an event endpoint of the caller's own.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from msgspec import Struct

Kind = Literal[
    "key",
    "user",
    "workspace",
    "event",
    "label",
    "environment",
    "variable",
    "secret",
    "auth_connection",
    "integration",
    "connected",  # an integration through which the side's own user is connected
    "connection",
    "connect_session",
    "event_endpoint",
    "agent",
    "conversation",
    "news",  # an event that the side's own endpoint hears of
]
# The platform chooses the names of these, so that one may stand in both workspaces.
NAMED: Final[tuple[Kind, ...]] = (
    *("user", "label", "environment", "integration", "connected", "agent"),
)

# Pages and descriptions of the surface itself: the same for everybody, tested in tests/broker.
NOT_ATTACKED: Final = {
    *("HEAD /livez", "HEAD /readyz"),  # a status, and no body
    "GET /schema",
    "GET /schema/openapi.json",
    "GET /schema/{path:str}",
    "GET /docs",
    "GET /static/pico.min.css",
    "GET /static/connect.css",
    "GET /v1/jwks/{workspace_id:str}",  # public keys, for whoever verifies with them
}
# Pages for people, which no key opens: what they show hangs on a link or a state that only who it
# was given to has. test_isolation.py takes what was begun in one workspace to the other.
PAGES: Final = {
    *("GET /connect/{link:str}", "POST /connect/{link:str}"),
    *("GET /connect/{link:str}/{integration:str}", "POST /connect/{link:str}/{integration:str}"),
    "GET /connect/{link:str}/{integration:str}/device",
    *("GET /oauth/{provider:str}/callback", "POST /oauth/{provider:str}/callback"),
    "GET /oauth/{provider:str}/{integration:str}/callback",
    "POST /oauth/{provider:str}/{integration:str}/callback",
    *("POST /oauth/choice", "POST /oauth/confirm"),
}
# What no key opens, but what a conversation holds: test_gateway.py and test_refresh_tool.py take it
# to others' things.
HELD: Final = {
    "POST /tokens/refresh",
    *(
        f"{method} /gateway/{{integration:str}}{path}"
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        for path in ("", "/{path:path}")
    ),
}
# Routes that ask for no key. Everything else has a guard.
PUBLIC: Final = {
    *("GET /livez", "GET /readyz", "GET /metrics"),
    "POST /hooks/elevenlabs/{workspace_id:str}/post-call",  # but for a signature
}
# Parameters and fields that name nothing which belongs to a workspace.
PLAIN: Final = {
    *("limit", "page_size", "dependency_limit", "action", "Idempotency-Key"),
    *("name", "scopes", "environments", "expires_at", "phone_numbers", "attributes"),
    *("type", "value", "allowed_hosts", "search", "secret_fallback"),
    *("kind", "explain", "dynamic_variables", "arguments", "body"),
    # What a conversation calls: test_stored_tools.py takes it to others' things.
    *("tool", "stored_tools", "X-Keyturn-Runtime"),
    # What an auth connection is made of
    *("auth_type", "provider", "client_id", "client_secret", "token_url", "extra_params"),
    *("extra_headers", "custom_headers", "basic_auth_in_header", "issuer", "audience", "subject"),
    *("secret_key", "algorithm", "key_id", "expiration_seconds", "token_response_field"),
    *("jwt_usage", "username", "password", "token", "header_name", "client_certificate"),
    *("client_key", "ca_certificate", "key_passphrase"),
    # What an integration, an import and an invitation are made of
    *("client_auth", "authorize_params", "redirect_uri", "share_connections", "return_origins"),
    *("access_token", "refresh_token", "expires_in", "refresh", "verify", "api_key", "state"),
    *("values", "return_url", "confirm", "replace_account", "account", "refresh_policy"),
    *("min_ttl", "max_wait_ms", "rejected", "compromised"),
    # What an agent's profile and an upstream are made of
    *("runtime", "delivery", "public_key", "tools", "inbound_trust", "overrides"),
    *("base_url", "webhook_secrets", "api_secret"),
    # What a conversation is made of
    *("channel", "branch_id", "on_missing", "connect_links"),
    # What a call is made of, and a number. Whose number it is test_telephone.py asks.
    *("caller_id", "called_number", "call_sid", "to_number", "from_number", "direction"),
    *("agent_phone_number_id", "phone_number", "label"),
    # What an event endpoint is made of
    *("url", "events", "enabled", "since"),
}


class Attack(Struct, frozen=True, kw_only=True):
    """One way to call a route; ``path`` fills in what of its path is not attacked."""

    success: int
    missing: int = 404
    kind: Kind | None = None
    path: Mapping[str, str] = {}
    query: str = ""
    body: Mapping[str, object] | None = None
    lines: bool = False  # the body is sent as the one line of an x-ndjson


def _walked(kind: Kind, *, size: str = "limit") -> tuple[Attack, ...]:
    """A list, and the list after somebody else's cursor."""
    after = Attack(success=200, missing=200, kind=kind, query=f"{size}=2&cursor={{cursor}}")
    return (Attack(success=200), after)


def _listed(kind: Kind, query: str) -> Attack:
    """A list that is narrowed to what is attacked."""
    return Attack(success=200, missing=200, kind=kind, query=query)


def _value(kind: str, value: object) -> dict[str, object]:
    return {"type": kind, "label": "{fresh}", "values": {"production": value}}


def _tool(url: str, **api_schema: object) -> dict[str, Any]:
    tool = {"type": "webhook", "name": "get", "description": "Gets."}
    return {"kind": "server_tool", "config": {**tool, "api_schema": {"url": url, **api_schema}}}


def _configured(**more: object) -> tuple[Attack, ...]:
    """A tool that names a label, an environment, a secret, an auth connection."""
    header = {"request_headers": {"X-Key": {"secret_id": "{id}"}}}
    connection = {"auth_connection": {"auth_connection_id": "{id}"}}
    by_kind: tuple[tuple[Kind, int, dict[str, Any]], ...] = (
        ("label", 422, _tool("{outside}/{{system__env_{id}}}")),
        ("environment", 200, {**_tool("{outside}/"), "environment": "{id}"}),
        ("secret", 422, _tool("{outside}/", **header)),
        ("auth_connection", 422, _tool("{outside}/", **connection)),
        ("conversation", 404, {**_tool("{outside}/"), "conversation_id": "{id}"}),
    )
    return tuple(
        Attack(success=200, missing=missing, kind=kind, body={**body, **more})
        for kind, missing, body in by_kind
    )


_SECRET_REF: Final = {"secret_id": "{id}"}
_AUTH_REF: Final = {"auth_connection_id": "{id}"}
_VARIABLES: Final = "/v1/convai/environment-variables"
_SECRETS: Final = "/v1/convai/secrets"
_AUTH: Final = "/v1/workspace/auth-connections"
_ENDPOINT: Final = "/v1/event-endpoints/{endpoint_id:str}"
_INTEGRATION: Final = "/v1/integrations/{integration:str}"
_AGENT: Final = "/v1/agents/{agent_id:str}"
_MY_AGENT: Final = {"agent_id": "{agent}"}
_UPSTREAM: Final = "/v1/upstreams/elevenlabs"
_LIVEKIT: Final = "/v1/upstreams/livekit"
_PROJECT: Final = {"url": "wss://a.example", "api_key": "{fresh}", "api_secret": "{fresh}"}
_OF_USER: Final = "/v1/users/{user_id:str}/connections/{integration:str}"
_MINE: Final = {"integration": "{integration}"}
_KEY: Final = {"provider": "api-key"}
_APP: Final = {"provider": "oidc", "client_id": "x", "variables": {"issuer": "https://a.example"}}
# A line that names a user, an integration, an environment.
_IMPORTS: Final[tuple[tuple[Kind, dict[str, object]], ...]] = (
    ("user", {"user_id": "{id}", "integration": "{integration}"}),
    ("integration", {"user_id": "{user}", "integration": "{id}"}),
    (
        "environment",
        {"user_id": "{user}", "integration": "{integration}", "environment": "{id}"},
    ),
)


def _minted(status: int) -> tuple[Attack, ...]:
    """A mint that names a user, an agent, an integration, an environment; no upstream is needed."""
    body: dict[str, object] = {"agent_id": "{agent}", "user_id": "{user}", "runtime": "sealed"}
    missing = 409 if status == 201 else status  # who prepares is told what is missing
    return (
        Attack(success=status, kind="user", body={**body, "user_id": "{id}"}),
        Attack(success=status, missing=status, kind="agent", body={**body, "agent_id": "{id}"}),
        Attack(
            success=status,
            missing=missing,
            kind="connected",
            body={**body, "integrations": ["{id}"]},
        ),
        Attack(
            success=status, missing=status, kind="environment", body={**body, "environment": "{id}"}
        ),
    )


_CONVERSATION: Final = "/v1/conversations/{conversation_id:str}"
_READY: Final = {"agent_id": "{agent}", "user_ids": ["{user}"]}
_SESSION: Final = "/v1/convai/conversation"
_FOR_USER: Final = "agent_id={agent}&user_id={id}"
_HOOK: Final = "POST /hooks/elevenlabs/{workspace_id:str}"
_CALL: Final = {
    "caller_id": "+15550100001",
    "agent_id": "{agent}",
    "called_number": "+15550200001",
    "call_sid": "CA1",
}
_NUMBERS: Final = "/v1/convai/phone-numbers"
_NUMBER: Final = f"{_NUMBERS}/{{phone_number_id:str}}"
_PHNUM: Final = {"phone_number_id": "phnum_1"}
_LINES: Final = (
    *(f"{line}/outbound-call" for line in ("twilio", "sip-trunk", "exotel", "whatsapp")),
    "twilio/register-call",
)


def _called(line: str) -> tuple[Attack, ...]:
    """A call that names an agent, a user, an environment; without an upstream nobody is called."""
    own = {"from_number": "+1", "to_number": "+2"} if line.endswith("register-call") else {}
    by_kind: tuple[tuple[Kind, dict[str, object]], ...] = (
        ("agent", {"agent_id": "{id}"}),
        ("user", {"user_id": "{id}"}),
        ("environment", {"user_id": "{user}", "environment": "{id}"}),
    )
    queried = {"agent_id": "{agent}", **own}
    by_query = Attack(success=409, missing=409, kind="user", query="user_id={id}", body=queried)
    by_body = (
        Attack(
            success=409,
            missing=409,
            kind=kind,
            body={
                "agent_id": named.get("agent_id", "{agent}"),
                "conversation_initiation_client_data": named,
                **own,
            },
        )
        for kind, named in by_kind
    )
    return (by_query, *by_body)


_SOMEWHERE: Final = "agent_id={agent}&user_id={user}&environment={id}"

ATTACKS: Final[dict[str, tuple[Attack, ...]]] = {
    "POST /v1/workspaces": (Attack(success=201, body={"name": "made"}),),
    "GET /v1/workspaces": _walked("workspace"),
    "GET /v1/workspaces/{workspace_id:str}": (Attack(success=200, kind="workspace"),),
    "DELETE /v1/workspaces/{workspace_id:str}": (Attack(success=204, kind="workspace"),),
    "POST /v1/keys": (Attack(success=201, body={"name": "made", "scopes": ["mint"]}),),
    "GET /v1/keys": _walked("key"),
    "GET /v1/keys/{key_id:str}": (Attack(success=200, kind="key"),),
    "DELETE /v1/keys/{key_id:str}": (Attack(success=204, kind="key"),),
    "GET /v1/users": _walked("user"),
    "PUT /v1/users/{user_id:str}": (
        Attack(success=200, missing=200, kind="user", body={"name": "written"}),
    ),
    "GET /v1/users/{user_id:str}": (Attack(success=200, kind="user"),),
    "DELETE /v1/users/{user_id:str}": (Attack(success=200, kind="user"),),
    "GET /v1/audit-events": (
        *_walked("event"),
        Attack(success=200, missing=200, kind="user", query="user_id={id}"),
    ),
    f"GET {_VARIABLES}": (
        *_walked("variable", size="page_size"),
        _listed("label", "label={id}"),
        _listed("environment", "environment={id}"),
    ),
    f"POST {_VARIABLES}": (
        Attack(success=200, body=_value("string", "made")),
        Attack(success=200, missing=400, kind="secret", body=_value("secret", _SECRET_REF)),
        Attack(
            success=200,
            missing=400,
            kind="auth_connection",
            body=_value("auth_connection", _AUTH_REF),
        ),
    ),
    f"GET {_VARIABLES}/{{env_var_id:str}}": (Attack(success=200, kind="variable"),),
    f"PATCH {_VARIABLES}/{{env_var_id:str}}": (
        Attack(success=200, kind="variable", body={"values": {"production": "written"}}),
        Attack(
            success=200,
            missing=400,
            kind="secret",
            path={"env_var_id": "{mine}"},
            body={"values": {"staging": _SECRET_REF}},
        ),
    ),
    f"DELETE {_VARIABLES}/{{env_var_id:str}}": (Attack(success=204, kind="variable"),),
    "GET /v1/convai/environments": (Attack(success=200),),
    "POST /v1/convai/environments": (Attack(success=200, body={"name": "{fresh}"}),),
    "DELETE /v1/convai/environments/{name:str}": (Attack(success=204, kind="environment"),),
    f"GET {_SECRETS}": _walked("secret", size="page_size"),
    f"POST {_SECRETS}": (
        Attack(success=200, body={"type": "new", "name": "made", "value": "made"}),
    ),
    f"GET {_SECRETS}/{{secret_id:str}}": (Attack(success=200, kind="secret"),),
    f"PATCH {_SECRETS}/{{secret_id:str}}": (
        Attack(
            success=200, kind="secret", body={"type": "update", "name": "new", "value": "written"}
        ),
    ),
    f"DELETE {_SECRETS}/{{secret_id:str}}": (Attack(success=204, kind="secret"),),
    f"GET {_SECRETS}/{{secret_id:str}}/dependencies/{{resource_type:str}}": (
        Attack(
            success=200,
            kind="secret",
            path={"resource_type": "tools"},
            query="page_size=2&cursor={cursor}",
        ),
    ),
    f"GET {_AUTH}": (Attack(success=200),),
    f"POST {_AUTH}": (
        Attack(
            success=200,
            body={"auth_type": "bearer_auth", "name": "made", "provider": "x", "token": "made"},
        ),
    ),
    f"PATCH {_AUTH}/{{auth_connection_id:str}}": (
        Attack(success=200, kind="auth_connection", body={"token": "written"}),
    ),
    f"DELETE {_AUTH}/{{auth_connection_id:str}}": (Attack(success=200, kind="auth_connection"),),
    "POST /v1/signing-keys": (Attack(success=201, body={"compromised": True}),),
    "GET /v1/settings": (Attack(success=200),),
    "PUT /v1/settings": (Attack(success=200, body={"secret_fallback": False}),),
    "GET /v1/settings/warnings": (Attack(success=200),),
    "POST /v1/resolve": _configured(explain=True),
    "POST /v1/tools/invoke": _configured(),
    "GET /v1/providers": (
        Attack(success=200),
        Attack(success=200, query="cursor=Z29vZ2xl"),  # the catalogue is the same for everybody
    ),
    "GET /v1/providers/{provider_id:str}": (Attack(success=200, path={"provider_id": "google"}),),
    "GET /v1/integrations": _walked("integration"),
    f"PUT {_INTEGRATION}": (
        Attack(success=200, missing=201, kind="integration", body=_KEY),
        Attack(
            success=201,
            missing=422,
            kind="secret",
            path={"integration": "{fresh}"},
            body={**_APP, "client_secret": _SECRET_REF},
        ),
    ),
    f"GET {_INTEGRATION}": (Attack(success=200, kind="integration"),),
    f"DELETE {_INTEGRATION}": (
        Attack(success=204, kind="integration"),
        Attack(success=409, kind="connected"),
    ),
    f"POST {_INTEGRATION}/check": (
        Attack(success=200, kind="integration", body={}),
        Attack(
            success=200, missing=200, kind="environment", path=_MINE, body={"environment": "{id}"}
        ),
    ),
    "GET /v1/connections": (
        *_walked("connection"),
        _listed("connected", "integration={id}"),
        _listed("environment", "environment={id}"),
    ),
    "GET /v1/connections/{connection_id:str}": (Attack(success=200, kind="connection"),),
    "DELETE /v1/connections/{connection_id:str}": (Attack(success=200, kind="connection"),),
    "POST /v1/connections/{connection_id:str}/token": (
        Attack(success=200, kind="connection", body={}),
    ),
    # What a person typed has nothing that could be refreshed.
    "POST /v1/connections/{connection_id:str}/refresh": (Attack(success=409, kind="connection"),),
    "GET /v1/connections/{connection_id:str}/timeline": (Attack(success=200, kind="connection"),),
    "POST /v1/connections/import": tuple(
        Attack(success=200, missing=200, kind=kind, body={"api_key": "k", **body}, lines=True)
        for kind, body in _IMPORTS
    ),
    "GET /v1/users/{user_id:str}/connections": (
        Attack(success=200, kind="user"),
        Attack(success=200, kind="user", query="limit=2&cursor={cursor}"),
        Attack(
            success=200,
            missing=200,
            kind="environment",
            path={"user_id": "{user}"},
            query="environment={id}",
        ),
    ),
    **{
        f"{method} {_OF_USER}": (
            Attack(success=200, kind="user", path=_MINE),
            Attack(success=200, kind="connected", path={"user_id": "{user}"}),
            Attack(
                success=404,
                kind="environment",
                path={**_MINE, "user_id": "{user}"},
                query="environment={id}",
            ),
        )
        for method in ("GET", "DELETE")
    },
    f"PUT {_OF_USER}": (
        Attack(success=200, missing=200, kind="user", path=_MINE, body={"api_key": "k"}),
        Attack(
            success=200,
            missing=422,
            kind="integration",
            path={"user_id": "{user}"},
            body={"api_key": "k"},
        ),
        Attack(
            success=200,
            missing=200,
            kind="environment",
            path={**_MINE, "user_id": "{user}"},
            body={"api_key": "k", "environment": "{id}"},
        ),
    ),
    "POST /v1/connect-sessions": (
        Attack(success=201, missing=201, kind="user", body={"user_id": "{id}"}),
        Attack(
            success=201,
            missing=422,
            kind="integration",
            body={"user_id": "{user}", "integrations": ["{id}"]},
        ),
        Attack(
            success=201,
            missing=201,
            kind="environment",
            body={"user_id": "{user}", "environment": "{id}"},
        ),
    ),
    "GET /v1/connect-sessions": (
        *_walked("connect_session"),
        _listed("user", "user_id={id}"),
    ),
    "GET /v1/connect-sessions/{session_id:str}": (Attack(success=200, kind="connect_session"),),
    "DELETE /v1/connect-sessions/{session_id:str}": (Attack(success=204, kind="connect_session"),),
    "POST /v1/connect-sessions/{session_id:str}/complete": (
        Attack(success=404, kind="connect_session", body={"code": "x", "user_id": "{user}"}),
        Attack(
            success=404,
            kind="user",
            path={"session_id": "{session}"},
            body={"code": "x", "user_id": "{id}"},
        ),
    ),
    "GET /v1/agents": _walked("agent"),
    f"PUT {_AGENT}": (
        Attack(success=200, missing=201, kind="agent", body={}),
        Attack(
            success=200,
            missing=200,
            kind="integration",
            path=_MY_AGENT,
            body={"integrations": [{"integration": "{id}"}]},
        ),
        Attack(
            success=200,
            missing=200,
            kind="label",
            path=_MY_AGENT,
            body={"variables": {"x": {"from": "environment", "label": "{id}"}}},
        ),
    ),
    f"GET {_AGENT}": (Attack(success=200, kind="agent"),),
    f"DELETE {_AGENT}": (Attack(success=204, kind="agent"),),
    f"GET {_AGENT}/tools": (Attack(success=200, missing=200, kind="agent"),),
    # Nobody here has named an account.
    f"POST {_AGENT}/tools/push": (Attack(success=409, missing=409, kind="agent"),),
    f"PUT {_UPSTREAM}": (
        Attack(success=201, body={"base_url": "https://a.example", "api_key": "{fresh}"}),
    ),
    f"GET {_UPSTREAM}": (Attack(success=404),),
    f"DELETE {_UPSTREAM}": (Attack(success=404),),
    f"PUT {_LIVEKIT}": (Attack(success=201, body=_PROJECT),),
    f"GET {_LIVEKIT}": (Attack(success=404),),
    f"DELETE {_LIVEKIT}": (Attack(success=404),),
    "POST /v1/conversations": _minted(201),
    "POST /v1/conversations/prepare": _minted(202),
    "POST /v1/conversations/redeem": (Attack(success=404, body={"token": "kts_x"}),),
    "GET /v1/conversations": (
        *_walked("conversation"),
        _listed("user", "user_id={id}"),
        _listed("agent", "agent_id={id}"),
        _listed("environment", "environment={id}"),
    ),
    f"GET {_CONVERSATION}": (Attack(success=200, kind="conversation"),),
    f"POST {_CONVERSATION}/end": (Attack(success=200, kind="conversation"),),
    f"POST {_CONVERSATION}/verify": (Attack(success=200, kind="conversation"),),
    "POST /v1/readiness": (
        Attack(success=200, missing=200, kind="user", body={**_READY, "user_ids": ["{id}"]}),
        Attack(success=200, missing=200, kind="agent", body={**_READY, "agent_id": "{id}"}),
        Attack(
            success=200, missing=200, kind="environment", body={**_READY, "environment": "{id}"}
        ),
    ),
    # Neither side has an upstream: whoever gets as far is told so.
    **{
        f"GET {_SESSION}/{path}": (
            Attack(success=409, kind="user", query=_FOR_USER),
            Attack(success=409, missing=409, kind="agent", query="agent_id={id}"),
            Attack(success=409, missing=409, kind="environment", query=_SOMEWHERE),
        )
        for path in ("get-signed-url", "get_signed_url")
    },
    f"GET {_SESSION}/token": (
        Attack(success=400, missing=400, kind="user", query=_FOR_USER),
        Attack(success=409, missing=409, kind="agent", query="agent_id={id}"),
        Attack(success=409, missing=409, kind="environment", query="agent_id=x&environment={id}"),
    ),
    f"{_HOOK}/initiation": (
        Attack(success=200, kind="workspace", body=_CALL),
        Attack(
            success=200,
            missing=200,
            kind="agent",
            path={"workspace_id": "{workspace}"},
            body={**_CALL, "agent_id": "{id}"},
        ),
        Attack(
            success=200,
            missing=200,
            kind="environment",
            path={"workspace_id": "{workspace}"},
            query="environment={id}",
            body=_CALL,
        ),
    ),
    f"{_HOOK}/post-call": (Attack(success=401, missing=401, kind="workspace"),),
    **{f"POST /v1/convai/{line}": _called(line) for line in _LINES},
    f"GET {_NUMBERS}": (Attack(success=409),),
    f"POST {_NUMBERS}": (Attack(success=409, body={"phone_number": "+1", "label": "x"}),),
    f"GET {_NUMBER}": (Attack(success=409, path=_PHNUM),),
    f"PATCH {_NUMBER}": (
        Attack(
            success=409,
            missing=409,
            kind="agent",
            path=_PHNUM,
            body={"agent_id": "{id}"},
        ),
        Attack(
            success=409,
            missing=409,
            kind="environment",
            path=_PHNUM,
            body={"environment": "{id}"},
        ),
    ),
    f"DELETE {_NUMBER}": (Attack(success=409, path=_PHNUM),),
    "POST /v1/event-endpoints": (Attack(success=201, body={"url": "https://a.example/"}),),
    "GET /v1/event-endpoints": _walked("event_endpoint"),
    f"GET {_ENDPOINT}": (Attack(success=200, kind="event_endpoint"),),
    f"PATCH {_ENDPOINT}": (Attack(success=200, kind="event_endpoint", body={"events": []}),),
    f"DELETE {_ENDPOINT}": (Attack(success=204, kind="event_endpoint"),),
    f"POST {_ENDPOINT}/rotate-secret": (Attack(success=200, kind="event_endpoint"),),
    f"POST {_ENDPOINT}/replay": (
        Attack(success=200, kind="event_endpoint", body={"since": "2026-01-01T00:00:00Z"}),
        Attack(
            success=200,
            kind="news",
            path={"endpoint_id": "{endpoint}"},
            body={"from_event_id": "{id}"},
        ),
    ),
    f"GET {_ENDPOINT}/deliveries": (
        Attack(success=200, kind="event_endpoint"),
        Attack(
            success=200,
            missing=200,
            kind="news",
            path={"endpoint_id": "{endpoint}"},
            query="state=delivered&cursor={cursor}",
        ),
    ),
    "GET /livez": (Attack(success=200),),
    "GET /readyz": (Attack(success=200),),
    "GET /metrics": (Attack(success=200),),
}
