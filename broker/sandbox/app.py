"""The sandbox's application: routes, and the faults in front of them."""

from typing import Annotated, Any

from litestar import Litestar, Request, Response, Router, delete, get, post, put
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, JSONBody
from litestar.types import ASGIApp
from msgspec import Meta, Struct
from msgspec.structs import replace

from broker.sandbox.faults import Faults, Misbehaving
from broker.sandbox.state import Client, Issuing, Sandbox, Seen
from broker.sandbox.tokens import Refused, answer

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class Requests(Struct, frozen=True):
    requests: list[Seen]


class Who(Struct, frozen=True):
    client_id: str
    scope: str


@post("/oauth/token", status_code=200)
async def token(
    request: Request[Any, Any, State], sandbox: NamedDependency[Sandbox]
) -> Response[dict[str, Any]]:
    """RFC 6749 sections 3.2 and 5, RFC 7523."""
    form = {name: str(value) for name, value in (await request.form()).items()}
    sandbox.note("POST", "/oauth/token", dict(request.headers), form)
    try:
        made = answer(sandbox, form, request.headers.get("authorization", ""))
    except Refused as refused:
        headers = dict(NO_STORE)
        if refused.status == 401:  # noqa: PLR2004 - RFC 6749 section 5.2
            headers["WWW-Authenticate"] = "Basic"
        return Response({"error": refused.error}, status_code=refused.status, headers=headers)
    return Response(made, headers=NO_STORE)


@get("/whoami")
async def whoami(
    request: Request[Any, Any, State], sandbox: NamedDependency[Sandbox]
) -> Response[Who | dict[str, str]]:
    """Who holds the bearer token of this request."""
    sandbox.note("GET", "/whoami", dict(request.headers), {})
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    issued = sandbox.alive(bearer) if scheme.lower() == "bearer" else None
    if issued is None:
        return Response(
            {"error": "invalid_token"},
            status_code=401,
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )
    return Response(Who(issued.client_id, issued.scope))


@put("/clients/{client_id:str}", status_code=204)
async def put_client(
    client_id: FromPath[str], data: JSONBody[Client], sandbox: NamedDependency[Sandbox]
) -> None:
    sandbox.clients[client_id] = data


@delete("/clients/{client_id:str}")
async def delete_client(client_id: FromPath[str], sandbox: NamedDependency[Sandbox]) -> None:
    sandbox.clients.pop(client_id, None)


@put("/faults", status_code=204)
async def put_faults(data: JSONBody[Faults], sandbox: NamedDependency[Sandbox]) -> None:
    sandbox.faults = data


@put("/tokens", status_code=204)
async def put_issuing(data: JSONBody[Issuing], sandbox: NamedDependency[Sandbox]) -> None:
    sandbox.issuing = data


@delete("/faults")
async def heal(sandbox: NamedDependency[Sandbox]) -> None:
    sandbox.faults = None


@get("/requests")
async def requests(
    sandbox: NamedDependency[Sandbox], path: Annotated[str, Meta(max_length=200)] = ""
) -> Requests:
    """What was asked, oldest first."""
    return Requests([one for one in sandbox.requests if path in ("", one.path)])


@delete("/requests")
async def forget_requests(sandbox: NamedDependency[Sandbox]) -> None:
    sandbox.requests.clear()


@post("/revoke", status_code=204)
async def revoke(sandbox: NamedDependency[Sandbox]) -> None:
    """Every token given out so far is dead."""
    sandbox.revoke_all()


def create_sandbox(sandbox: Sandbox | None = None) -> ASGIApp:
    """Make the application; a ``sandbox`` of your own lets you look into it."""
    state = sandbox or Sandbox()
    knobs = Router(
        "/_sandbox",
        route_handlers=[
            put_client,
            delete_client,
            put_faults,
            put_issuing,
            heal,
            requests,
            forget_requests,
            revoke,
        ],
    )
    app = Litestar(
        route_handlers=[token, whoami, knobs],
        dependencies={"sandbox": Provide(lambda: state, sync_to_thread=False)},
        openapi_config=None,
        logging_config=None,
    )

    def take(path: str) -> Faults | None:
        faults = state.faults
        if faults is None or not path.startswith(faults.path) or path.startswith("/_sandbox"):
            return None
        if faults.times is not None:
            left = faults.times - 1
            state.faults = replace(faults, times=left) if left else None
        return faults

    return Misbehaving(app, take)
