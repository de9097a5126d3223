"""/v1/users: the platform's users, by the ids that the platform already uses."""

from typing import Annotated

from litestar import Router, delete, get, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter

from broker.api import examples
from broker.api.connect_messages import DeletedOut, UserDeletedOut
from broker.api.messages import Listing, UserIn, UserOut
from broker.api.requests import DEFAULT_LIMIT, Cursor, Limit, next_cursor, page_of, requires
from broker.api.responses import guarded
from vault.model import USER_ID_PATTERN, Caller, UserId
from vault.vault import Vault

Id = Annotated[
    str,
    PathParameter(
        pattern=USER_ID_PATTERN,
        description="The user's id at the platform.",
        examples=examples.named("ada"),
    ),
]


@get(guards=requires("user.list"), responses=guarded("invalid"), summary="List the users")
async def listing(
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Listing[UserOut]:
    found = await vault.list_users(caller, page_of(limit, cursor))
    data = [UserOut.of(user) for user in found[:limit]]
    return Listing(data=data, next_cursor=next_cursor([user.user_id for user in found], limit))


@put(
    "/{user_id:str}",
    guards=requires("user.write"),
    responses=guarded("malformed", "conflict", "too_large", "invalid"),
    summary="Make or replace a user",
)
async def write(
    user_id: Id,
    data: JSONBody[UserIn],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
) -> UserOut:
    """Make a user, or replace all that is known of one. Sealed under the user's own key."""
    return UserOut.of(await vault.put_user(caller, UserId(user_id), data.profile()))


@get(
    "/{user_id:str}",
    guards=requires("user.read"),
    responses=guarded("not_found", "invalid"),
    summary="Get a user",
)
async def read(
    user_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> UserOut:
    return UserOut.of(await vault.get_user(caller, UserId(user_id)))


@delete(
    "/{user_id:str}",
    guards=requires("user.delete"),
    status_code=200,
    responses=guarded("not_found", "invalid"),
    summary="Delete a user",
)
async def remove(
    user_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> UserDeletedOut:
    """Give every connection back to its provider, and shred the user's key."""
    outcomes = await vault.delete_user(caller, UserId(user_id))
    return UserDeletedOut(
        connections=[DeletedOut(id=one, revoked=outcome) for one, outcome in outcomes.items()]
    )


router = Router("/v1/users", route_handlers=[listing, write, read, remove], tags=["users"])
