"""The sandbox's application: a provider, dialects and ElevenLabs; faults stand before all."""

from functools import cache
from typing import Any, Final

from litestar import Litestar
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send
from msgspec.structs import replace

from broker.sandbox.elevenlabs import app as elevenlabs
from broker.sandbox.elevenlabs.panel import panel as elevenlabs_panel
from broker.sandbox.faults import Faults, Misbehaving, number_of
from broker.sandbox.panel import panel
from broker.sandbox.routes import HANDLERS
from broker.sandbox.shapes import Asked
from broker.sandbox.speaking import Speaker
from broker.sandbox.state import Sandbox

WELL_KNOWN: Final = 2  # where a path may name a dialect below /.well-known
MAX_BODY: Final = 1_000_000  # bytes; what is more is cut off, and then fits no shape
BROUGHT: Final = "sandbox"  # in a request's state


def create_sandbox(sandbox: Sandbox | None = None) -> ASGIApp:
    """Make the application; a ``sandbox`` of your own lets you look into it."""
    state = sandbox or Sandbox()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        name, path = _spoken(str(scope["path"])) if scope["type"] == ScopeType.HTTP else ("", "")
        if name in state.dialects:
            await _speak(state, name, path, scope, receive, send)
        elif name != "_sandbox" and elevenlabs.is_ours(scope["path"]):
            await elevenlabs.serve(state.elevenlabs, scope, receive, send)
        else:
            scope.setdefault("state", {})[BROUGHT] = state
            await _routes()(scope, receive, send)

    def take(path: str) -> Faults | None:
        faults = state.faults
        if faults is None or not path.startswith(faults.path) or path.startswith("/_sandbox"):
            return None
        if faults.times is not None:
            left = faults.times - 1
            state.faults = replace(faults, times=left) if left else None
        return faults

    return Misbehaving(app, take, state.history)


@cache
def _routes() -> Litestar:
    """Made once: two sandboxes differ by nothing but the state that a request brings along."""
    return Litestar(
        route_handlers=[*HANDLERS, panel, elevenlabs_panel],
        dependencies={"sandbox": Provide(_brought, sync_to_thread=False)},
        openapi_config=None,
        logging_config=None,
    )


def _brought(scope: Scope) -> Sandbox:
    found: Sandbox = scope["state"][BROUGHT]
    return found


def _spoken(path: str) -> tuple[str, str]:
    """The dialect that a path names, and what is left of it.

    Metadata of an address with a path stands below ``/.well-known/...`` (RFC 8414 section 3.1).
    """
    parts = path.removeprefix("/").split("/")
    place = WELL_KNOWN if parts[0] == ".well-known" and len(parts) > WELL_KNOWN else 0
    return parts[place], "/".join([*parts[:place], *parts[place + 1 :]])


async def _speak(
    sandbox: Sandbox, name: str, path: str, scope: Scope, receive: Receive, send: Send
) -> None:
    """Answer in a dialect. No framework stands between: it would tidy what a shape is strict of."""
    raw: Any = scope
    headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in raw["headers"]}
    here = f"{raw['scheme']}://{headers.get('host', 'localhost')}/{name}"
    asked = Asked(
        method=raw["method"],
        path=path,
        query=raw["query_string"].decode("latin-1"),
        headers=headers,
        body=await _body(receive),
        here=here,
        number=number_of(scope),
    )
    sandbox.note(asked.method, raw["path"], asked.headers, {})
    found = Speaker(sandbox, name, asked).answer()
    lines = {"content-type": found.content_type, **found.headers}
    lines["content-length"] = str(len(found.body))
    start: Any = {
        "type": "http.response.start",
        "status": found.status,
        "headers": [(key.lower().encode(), value.encode()) for key, value in lines.items()],
    }
    await send(start)
    await send({"type": "http.response.body", "body": found.body, "more_body": False})


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message: Any = await receive()
        body = (body + message.get("body", b""))[:MAX_BODY]
        if not message.get("more_body"):
            return bytes(body)
