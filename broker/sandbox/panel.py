"""``/_sandbox``: the knobs, and what there is to see."""

import re
import time
from typing import Annotated

from litestar import Router, delete, get, post, put
from litestar.di import NamedDependency
from litestar.exceptions import ClientException, NotFoundException
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from broker.sandbox.dialect import NAME, RESERVED, Dialect
from broker.sandbox.faults import Faults
from broker.sandbox.grants import Row
from broker.sandbox.history import Page, Tally, tally, usable
from broker.sandbox.knobs import Client, Consent, Issuing, Person
from broker.sandbox.state import Sandbox, Seen

MAX_PAGE = 10_000


class Requests(Struct, frozen=True):
    requests: list[Seen]


class Families(Struct, frozen=True):
    families: list[Row]


class Counted(Struct, frozen=True):
    """``usable``: by family, the refresh tokens that work now."""

    tally: Tally
    usable: dict[str, list[str]]


class Text(Struct, frozen=True, forbid_unknown_fields=True):
    text: str


class Fingerprint(Struct, frozen=True):
    fingerprint: str


class Dialects(Struct, frozen=True):
    dialects: dict[str, Dialect]


Name = Annotated[str, Meta(max_length=200)]


@put("/clients/{client_id:str}", status_code=204)
async def put_client(
    client_id: FromPath[str], data: JSONBody[Client], sandbox: NamedDependency[Sandbox]
) -> None:
    sandbox.clients[client_id] = data


@delete("/clients/{client_id:str}")
async def delete_client(client_id: FromPath[str], sandbox: NamedDependency[Sandbox]) -> None:
    sandbox.clients.pop(client_id, None)


@put("/people/{account:str}", status_code=204)
async def put_person(
    account: FromPath[str], data: JSONBody[Person], sandbox: NamedDependency[Sandbox]
) -> None:
    sandbox.people[account] = data


@delete("/people/{account:str}")
async def delete_person(account: FromPath[str], sandbox: NamedDependency[Sandbox]) -> None:
    """The account is gone, and with it all that it consented to."""
    sandbox.people.pop(account, None)
    for family in sandbox.ledger.families():
        if family.account == account:
            sandbox.ledger.end(family, "account deleted")


@put("/consent", status_code=204)
async def put_consent(data: JSONBody[Consent], sandbox: NamedDependency[Sandbox]) -> None:
    sandbox.consent = data


@put("/faults", status_code=204)
async def put_faults(data: JSONBody[Faults], sandbox: NamedDependency[Sandbox]) -> None:
    sandbox.faults = data


@delete("/faults")
async def heal(sandbox: NamedDependency[Sandbox]) -> None:
    sandbox.faults = None


@put("/tokens", status_code=204)
async def put_issuing(
    data: JSONBody[Issuing], sandbox: NamedDependency[Sandbox], dialect: Name = ""
) -> None:
    """Of the sandbox's own provider, or of a dialect."""
    if dialect and dialect not in sandbox.dialects:
        raise NotFoundException("There is no dialect of this name.")
    sandbox.issue_as(dialect, data)


@put("/dialects/{name:str}", status_code=204)
async def put_dialect(
    name: FromPath[str], data: JSONBody[Dialect], sandbox: NamedDependency[Sandbox]
) -> None:
    if name in RESERVED or not re.match(NAME, name):
        raise ClientException("A dialect's name is lower case letters, digits and dashes.")
    sandbox.dialects[name] = data


@get("/dialects")
async def dialects(sandbox: NamedDependency[Sandbox]) -> Dialects:
    return Dialects(sandbox.dialects)


@delete("/dialects/{name:str}")
async def delete_dialect(name: FromPath[str], sandbox: NamedDependency[Sandbox]) -> None:
    sandbox.dialects.pop(name, None)


@get("/requests")
async def requests(sandbox: NamedDependency[Sandbox], path: Name = "") -> Requests:
    """What was asked, oldest first."""
    return Requests([one for one in sandbox.requests if path in ("", one.path)])


@delete("/requests")
async def forget_requests(sandbox: NamedDependency[Sandbox]) -> None:
    sandbox.requests.clear()


@get("/history")
async def history(
    sandbox: NamedDependency[Sandbox],
    after: Annotated[int, Meta(ge=0)] = 0,
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = MAX_PAGE,
) -> Page:
    """Events in order; ask again with ``after`` the ``next`` of this page."""
    return sandbox.history.page(after, limit)


@get("/tally")
async def count(sandbox: NamedDependency[Sandbox]) -> Counted:
    events = sandbox.history.events()
    working = usable(events, at=time.monotonic())
    return Counted(tally(events), {family: sorted(prints) for family, prints in working.items()})


@get("/families")
async def families(sandbox: NamedDependency[Sandbox]) -> Families:
    return Families(sandbox.ledger.rows())


@delete("/families/{family:str}")
async def end_family(family: FromPath[str], sandbox: NamedDependency[Sandbox]) -> None:
    """The person takes a consent back, at the provider."""
    for one in sandbox.ledger.families():
        if one.id == family:
            sandbox.ledger.end_consent(one, "withdrawn")


@post("/fingerprint", status_code=200)
async def fingerprint(data: JSONBody[Text], sandbox: NamedDependency[Sandbox]) -> Fingerprint:
    """What a token is called in the history."""
    return Fingerprint(sandbox.fingerprint(data.text))


@post("/revoke", status_code=204)
async def revoke(sandbox: NamedDependency[Sandbox]) -> None:
    """Every token given out so far is dead."""
    sandbox.revoke_all()


@post("/expire", status_code=204)
async def expire(sandbox: NamedDependency[Sandbox]) -> None:
    """Every access token given out so far has ended; refresh tokens live on."""
    sandbox.ledger.expire_access()


@post("/keys", status_code=204)
async def rotate_keys(sandbox: NamedDependency[Sandbox]) -> None:
    """Sign with new keys from now on."""
    sandbox.keys.rotate()


@post("/reset", status_code=204)
async def reset(sandbox: NamedDependency[Sandbox]) -> None:
    """As new; only the history goes on."""
    sandbox.reset()


panel = Router(
    "/_sandbox",
    route_handlers=[
        put_client,
        delete_client,
        put_person,
        delete_person,
        put_consent,
        put_faults,
        heal,
        put_issuing,
        put_dialect,
        dialects,
        delete_dialect,
        requests,
        forget_requests,
        history,
        count,
        families,
        end_family,
        fingerprint,
        revoke,
        expire,
        rotate_keys,
        reset,
    ],
)
