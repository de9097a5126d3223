"""The own provider's routes: from a request to an answer, and the way back."""

import time
from collections.abc import Callable
from typing import Any

from litestar import Request, Response, get, post, route
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromQuery
from msgspec import Struct

from broker.sandbox import oauth1, pages, provider
from broker.sandbox.clients import Refused
from broker.sandbox.faults import number_of
from broker.sandbox.pages import NO_STORE, Answer, told
from broker.sandbox.registration import register
from broker.sandbox.state import Sandbox
from broker.sandbox.tokens import REALM, Asking, answer, form_of

Asked = Request[Any, Any, State]


class Who(Struct, frozen=True, omit_defaults=True):
    client_id: str
    scope: str
    account: str = ""


@post("/oauth/token", status_code=200)
async def token(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    """RFC 6749 sections 3.2 and 5, RFC 7523, RFC 8628."""
    return await _formal(
        sandbox,
        request,
        lambda form: told(
            answer(
                sandbox,
                Asking(
                    form=form,
                    authorization=request.headers.get("authorization", ""),
                    here=here_of(request),
                    number=number_of(request.scope),
                ),
            )
        ),
    )


@route("/oauth/authorize", http_method=["GET", "POST"], status_code=200)
async def authorize(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    body = await request.body()
    try:
        given = form_of(body if request.method == "POST" else request.scope["query_string"])
    except Refused as refused:
        return sent(pages.said("This request is not right", refused.reason, status=400))
    sandbox.note(request.method, "/oauth/authorize", dict(request.headers), given)
    number = number_of(request.scope)
    return sent(provider.authorization(sandbox, given, here_of(request), number))


@post("/consent", status_code=200)
async def consent(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    """What a person said on the page."""
    form = form_of(await request.body())
    names = ("ticket", "account", "decision")
    ticket, account, decision = (form.get(name, "") for name in names)
    return sent(sandbox.questions.answer(ticket, account, decision, sandbox.people))


@post("/oauth/par", status_code=201)
async def push(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    header = request.headers.get("authorization", "")
    return await _formal(sandbox, request, lambda form: provider.push(sandbox, form, header))


@post("/oauth/device", status_code=200)
async def device(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    header = request.headers.get("authorization", "")
    return await _formal(
        sandbox,
        request,
        lambda form: provider.device_authorization(sandbox, form, header, here_of(request)),
    )


@get("/device")
async def device_page(user_code: FromQuery[str] = "") -> Response[bytes]:
    return sent(pages.device(user_code))


@post("/device", status_code=200)
async def device_code(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    form = form_of(await request.body())
    return sent(provider.device_question(sandbox, form.get("user_code", "")))


@post("/oauth/revoke", status_code=200)
async def revoke(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    header, number = request.headers.get("authorization", ""), number_of(request.scope)
    return await _formal(
        sandbox, request, lambda form: provider.revoke(sandbox, form, header, number)
    )


@post("/oauth/introspect", status_code=200)
async def introspect(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    header = request.headers.get("authorization", "")
    return await _formal(sandbox, request, lambda form: provider.introspect(sandbox, form, header))


@post("/oauth/register", status_code=201)
async def registered(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    body = await request.body()
    return sent(_or_refused(sandbox, request, lambda: register(sandbox, body, int(time.time()))))


@route("/oauth/userinfo", http_method=["GET", "POST"], status_code=200)
async def userinfo(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    sandbox.note(request.method, "/oauth/userinfo", dict(request.headers), {})
    return sent(provider.userinfo(sandbox, _bearer(request), number_of(request.scope)))


@get("/oauth/jwks")
async def jwks(sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    return sent(told(sandbox.keys.jwks()))


@get(["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"])
async def metadata(request: Asked) -> Response[bytes]:
    return sent(told(provider.metadata(here_of(request))))


@get(["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"])
async def resource_metadata(request: Asked) -> Response[bytes]:
    return sent(told(provider.resource_metadata(here_of(request))))


@route("/mcp", http_method=["GET", "POST"], status_code=200)
async def mcp(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    number = number_of(request.scope)
    return sent(provider.mcp(sandbox, _bearer(request), here_of(request), number))


@get("/whoami")
async def whoami(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    """Who holds the bearer token of this request."""
    sandbox.note("GET", "/whoami", dict(request.headers), {})
    found = sandbox.alive(_bearer(request), REALM, number_of(request.scope))
    if found is None:
        return sent(provider.unauthorized())
    family = found.family
    return sent(told(Who(family.client_id, " ".join(family.scopes), family.account)))


@post("/oauth1/request_token", status_code=200)
async def oauth1_request(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    return await _signed(sandbox, request, oauth1.request_token)


@get("/oauth1/authorize")
async def oauth1_authorize(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    return sent(oauth1.authorize(sandbox, form_of(request.scope["query_string"])))


@post("/oauth1/access_token", status_code=200)
async def oauth1_access(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    return await _signed(sandbox, request, oauth1.access_token)


@get("/oauth1/whoami")
async def oauth1_whoami(request: Asked, sandbox: NamedDependency[Sandbox]) -> Response[bytes]:
    return await _signed(sandbox, request, oauth1.whoami)


HANDLERS = [
    token,
    authorize,
    consent,
    push,
    device,
    device_page,
    device_code,
    revoke,
    introspect,
    registered,
    userinfo,
    jwks,
    metadata,
    resource_metadata,
    mcp,
    whoami,
    oauth1_request,
    oauth1_authorize,
    oauth1_access,
    oauth1_whoami,
]


def here_of(request: Asked) -> str:
    """Our own address, as whoever asks us knows it."""
    return str(request.base_url).rstrip("/")


def sent(found: Answer) -> Response[bytes]:
    """Litestar's response of an answer."""
    return Response(
        found.body,
        status_code=found.status,
        media_type=found.content_type,
        headers=dict(found.headers),
    )


def _bearer(request: Asked) -> str:
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    return bearer if scheme.lower() == "bearer" else ""


async def _formal(
    sandbox: Sandbox, request: Asked, work: Callable[[dict[str, str]], Answer]
) -> Response[bytes]:
    """A request that is a form; what it refuses is told as RFC 6749 section 5.2 says."""
    body = await request.body()

    def answered() -> Answer:
        form = form_of(body)
        sandbox.note(request.method, request.url.path, dict(request.headers), form)
        return work(form)

    return sent(_or_refused(sandbox, request, answered))


def _or_refused(sandbox: Sandbox, request: Asked, work: Callable[[], Answer]) -> Answer:
    try:
        return work()
    except Refused as refused:
        number = number_of(request.scope)
        sandbox.history.add("refused", request=number, reasons=(refused.error, refused.reason))
        headers = dict(NO_STORE)
        if refused.status == 401:  # noqa: PLR2004 - RFC 6749 section 5.2
            headers["WWW-Authenticate"] = "Basic"
        return told({"error": refused.error}, refused.status, headers)


async def _signed(
    sandbox: Sandbox, request: Asked, work: Callable[[Sandbox, oauth1.Signed], Answer]
) -> Response[bytes]:
    kind = request.headers.get("content-type", "").partition(";")[0]
    signed = oauth1.Signed(
        method=request.method,
        url=here_of(request) + request.url.path,
        query=request.scope["query_string"].decode("latin-1"),
        authorization=request.headers.get("authorization", ""),
        body=await request.body(),
        is_form=kind == "application/x-www-form-urlencoded",
    )
    try:
        return sent(work(sandbox, signed))
    except oauth1.Wrong as wrong:
        number = number_of(request.scope)
        sandbox.history.add("refused", request=number, reasons=(str(wrong),))
        return sent(told({"error": str(wrong)}, 401, {"WWW-Authenticate": "OAuth"}))
