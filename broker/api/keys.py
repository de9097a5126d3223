"""/v1/keys: the API keys of a workspace."""

from typing import Annotated, Any

from litestar import Request, Router, delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from broker.api import examples
from broker.api.messages import KeyIn, KeyMade, KeyOut, Listing
from broker.api.requests import (
    DEFAULT_LIMIT,
    Cursor,
    IdempotencyKey,
    Limit,
    next_cursor,
    once_of,
    page_of,
    requires,
)
from broker.api.responses import guarded
from vault.model import Caller, KeyId
from vault.vault import Vault

Id = Annotated[str, examples.path("key_01k6zj3m8q0v5w7x9y1a2b3c4d")]


@post(
    guards=requires("key.create"),
    responses=guarded(
        "malformed", "too_large", "invalid", "idempotency_in_progress", "idempotency_mismatch"
    ),
    summary="Make a key",
)
async def create(
    data: JSONBody[KeyIn],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    request: Request[Any, Any, Any],
    idempotency_key: IdempotencyKey = None,
) -> KeyMade:
    """Make a key, at most as wide as the one that asks. It is shown only here."""
    once = await once_of(request, vault, idempotency_key)
    return KeyMade.of(await vault.create_key(caller, data.wanted(), once=once))


@get(guards=requires("key.list"), responses=guarded("invalid"), summary="List the keys")
async def listing(
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Listing[KeyOut]:
    """What is known of each key. The keys themselves are stored nowhere."""
    found = await vault.list_keys(caller, page_of(limit, cursor))
    data = [KeyOut.of(key) for key in found[:limit]]
    return Listing(data=data, next_cursor=next_cursor([key.key_id for key in found], limit))


@get(
    "/{key_id:str}",
    guards=requires("key.read"),
    responses=guarded("not_found", "invalid"),
    summary="Get a key",
)
async def read(
    key_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> KeyOut:
    return KeyOut.of(await vault.get_key(caller, KeyId(key_id)))


@delete(
    "/{key_id:str}",
    guards=requires("key.delete"),
    responses=guarded("not_found", "invalid"),
    summary="Revoke a key",
)
async def remove(
    key_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> None:
    """Revoke a key. The next request with it is refused, on every replica."""
    await vault.delete_key(caller, KeyId(key_id))


router = Router("/v1/keys", route_handlers=[create, listing, read, remove], tags=["keys"])
