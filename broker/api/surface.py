"""The routes: this tuple is the whole HTTP surface.

To add one: write its module with a ``router``, add it here, and see docs/howto/add-a-route.md
for what the tests will ask of you.
"""

from typing import Final

from litestar import Router

from broker.api import (
    agents,
    audit_events,
    connect_sessions,
    connections,
    convai,
    conversations,
    event_endpoints,
    gateway,
    health,
    hooks,
    integrations,
    keys,
    providers,
    refresh_tool,
    resolve,
    settings,
    signing_keys,
    tokens,
    upstreams,
    users,
    workspaces,
)

ROUTERS: Final[tuple[Router, ...]] = (
    workspaces.router,
    keys.router,
    users.router,
    integrations.router,
    connections.router,
    tokens.router,
    connect_sessions.router,
    agents.router,
    upstreams.router,
    conversations.router,
    conversations.readiness_router,
    hooks.router,
    event_endpoints.router,
    audit_events.router,
    settings.router,
    resolve.router,
    providers.router,
    signing_keys.router,
    refresh_tool.router,
    gateway.router,
    *convai.ROUTERS,
    health.router,
)
