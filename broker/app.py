"""The composition root of the HTTP service: an open vault becomes a Litestar application."""

from typing import Final

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme, Tag
from litestar.types import ASGIApp
from msgspec import Struct

from broker import web
from broker.admission import Doorkeeper
from broker.api.convai import errors
from broker.api.gate import Gate
from broker.api.problems import handlers
from broker.api.raw import RawMint
from broker.api.raw.tokens import RawToken
from broker.api.requests import Door, caller_of
from broker.api.responses import correct
from broker.api.surface import ROUTERS
from broker.api.tracing import Traces
from broker.broker import Broker
from broker.metrics import Metrics
from broker.relay import Relay
from broker.settings import Settings
from broker.web import people
from vault import __version__
from vault.vault import Vault

MAX_BODY: Final = 256 * 1024
TAGS: Final = {
    "workspaces": "The operator's directory of workspaces.",
    "keys": "API keys: scoped, tied to environments, revoked at once.",
    "users": "The platform's users.",
    "integrations": "App registrations at providers.",
    "connections": "What users have connected.",
    "connect-sessions": "Links that invite a user to connect.",
    "agents": "What each agent needs, and the tools that serve it.",
    "upstreams": "The workspace's own account at ElevenLabs.",
    "conversations": "Minted sessions: what they start with, and what they may do meanwhile.",
    "signing-keys": "What sealed tokens are signed with.",
    "telephone": "Calls out, calls in, and the numbers that they come to.",
    "events": "Signed webhooks: where events go to, and how they fare.",
    "audit": "Who did what.",
    "environments": "Environment variables and environments, as at ElevenLabs.",
    "secrets": "The workspace's secrets, as at ElevenLabs.",
    "auth-connections": "Ways to authenticate, as at ElevenLabs.",
    "providers": "The catalogue: what is known of Google, Slack, ...",
    "settings": "What the workspace has chosen.",
    "resolve": "What a configuration becomes in an environment: shown, or called.",
    "health": "For the machines around the service; no key needed.",
}


class Service(Struct, frozen=True):
    """What answers HTTP, and the parts of it that others hold on to."""

    app: Litestar
    gate: Gate
    metrics: Metrics
    raw: RawMint
    raw_token: RawToken
    relay: Relay
    traces: Traces | None = None

    @property
    def asgi(self) -> ASGIApp:
        """The application behind its gate, with the hot routes in front."""
        return self.before(self.app)

    def before(self, app: ASGIApp) -> ASGIApp:
        """The same with what stands right before the application, behind the hot routes."""
        gated = self.gate.before(self.raw_token.before(self.raw.before(app)))
        return gated if self.traces is None else self.traces.before(gated)


def create_service(
    vault: Vault,
    broker: Broker,
    settings: Settings,
    *,
    doorkeeper: Doorkeeper | None = None,
    traces: Traces | None = None,
) -> Service:
    """Put the parts together. ``doorkeeper``: who admits to the relay, if not the broker."""
    metrics = Metrics()
    gate = Gate(metrics)
    relay = Relay(
        doorkeeper or broker,
        vault.egress,
        metrics.relays,
        sockets=settings.relay_sockets,
        workspace_sockets=settings.relay_workspace_sockets,
    )
    app = _litestar(vault, broker, settings, metrics, gate, relay)
    raw = RawMint(vault, broker, app.state.door)
    raw_token = RawToken(broker, app.state.door)
    return Service(app, gate, metrics, raw, raw_token, relay, traces)


def _litestar(
    vault: Vault, broker: Broker, settings: Settings, metrics: Metrics, gate: Gate, relay: Relay
) -> Litestar:
    app = Litestar(
        route_handlers=[*ROUTERS, web.router, people.router],
        exception_handlers=handlers(metrics, dialect=errors.dialect),
        dependencies={
            "caller": Provide(caller_of),
            "vault": Provide(lambda: vault, sync_to_thread=False),
            "broker": Provide(lambda: broker, sync_to_thread=False),
            "metrics": Provide(lambda: metrics, sync_to_thread=False),
            "relay": Provide(lambda: relay, sync_to_thread=False),
        },
        state=State(
            {"door": Door(vault, broker, settings.operator_keys), "gate": gate, "ticks": None}
        ),
        request_max_body_size=MAX_BODY,
        openapi_config=_openapi(),
        on_startup=[
            lambda: vault.observe_refreshes(metrics.refreshed),
            lambda: vault.observe_root_key(metrics.root_key_called),
        ],
        logging_config=None,
        debug=False,
    )
    correct(app.openapi_schema)
    return app


def _openapi() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Keyturn",
        version=__version__,
        description="A credential vault and token broker. docs/reference/http.md says more.",
        path="/schema",
        render_plugins=[JsonRenderPlugin()],
        use_handler_docstrings=True,
        tags=[Tag(name=name, description=text) for name, text in TAGS.items()],
        security=[{"bearer": []}, {"xi-api-key": []}],
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer"),
                "xi-api-key": SecurityScheme(
                    type="apiKey", name="xi-api-key", security_scheme_in="header"
                ),
            }
        ),
    )
