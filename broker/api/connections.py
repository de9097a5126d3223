"""/v1/connections and /v1/users/{user_id}/connections: what users have connected."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Router, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.response import Stream

from broker.api import examples
from broker.api.connect_messages import (
    ConnectionDetailOut,
    ConnectionOut,
    DeletedOut,
    ImportIn,
    ImportLine,
    ImportResult,
)
from broker.api.messages import Listing
from broker.api.problems import problem_of
from broker.api.reasons import reason_of
from broker.api.requests import (
    DEFAULT_LIMIT,
    LINES,
    Cursor,
    Limit,
    next_cursor,
    page_of,
    requires,
    requires_lines,
)
from broker.api.responses import guarded, of_lines
from broker.conversation import environment_of
from vault.consent import INTEGRATION_PATTERN, Connection, State
from vault.errors import Malformed, VaultError
from vault.model import ENVIRONMENT_PATTERN, USER_ID_PATTERN, Caller, UserId
from vault.vault import Vault

MAX_IMPORT: Final = 16 * 1024 * 1024
MAX_LINE: Final = 256 * 1024
MAX_LINES: Final = 10_000

Id = Annotated[str, examples.path("conn_01k9v7q3x8w2r5t6y7z8a9b0c1")]
User = Annotated[str, PathParameter(pattern=USER_ID_PATTERN, examples=examples.named("ada"))]
IntegrationPath = Annotated[
    str, PathParameter(pattern=INTEGRATION_PATTERN, examples=examples.named("google"))
]
InEnvironment = Annotated[str | None, QueryParameter(pattern=ENVIRONMENT_PATTERN)]
OfIntegration = Annotated[str | None, QueryParameter(pattern=INTEGRATION_PATTERN)]

_line = msgspec.json.Decoder(ImportLine)


@get(
    "/v1/connections",
    guards=requires("connection.list"),
    responses=guarded("invalid"),
    summary="List the connections",
)
async def listing(
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    connection_state: Annotated[State | None, QueryParameter(name="state")] = None,
    integration: OfIntegration = None,
    environment: InEnvironment = None,
    account: Annotated[str | None, QueryParameter(min_length=1, max_length=500)] = None,
) -> Listing[ConnectionOut]:
    """In the environments that the key reaches. `account`: whose id at the provider this is."""
    found = await vault.list_connections(
        caller,
        page_of(limit, cursor),
        state=connection_state or "",
        integration=integration or "",
        environment=environment or "",
        account=account or "",
    )
    return _page(found, limit)


@get(
    "/v1/users/{user_id:str}/connections",
    guards=requires("connection.list"),
    responses=guarded("not_found", "invalid"),
    summary="List a user's connections",
)
async def of_user(
    user_id: User,
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    environment: InEnvironment = None,
) -> Listing[ConnectionOut]:
    await vault.refuse_missing_user(caller, UserId(user_id))
    found = await vault.list_connections(
        caller, page_of(limit, cursor), user_id=user_id, environment=environment or ""
    )
    return _page(found, limit)


@get(
    "/v1/users/{user_id:str}/connections/{integration:str}",
    guards=requires("connection.read"),
    responses=guarded("not_found", "invalid"),
    summary="Get a user's connection",
)
async def of_user_at(
    user_id: User,
    integration: IntegrationPath,
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    environment: InEnvironment = None,
) -> ConnectionDetailOut:
    """In this environment alone; production's, too, where the integration shares them."""
    found = await vault.find_connection(
        caller, user_id, integration, environment_of(caller, environment), shared=True
    )
    return await ConnectionDetailOut.opened(vault, caller, found)


@put(
    "/v1/users/{user_id:str}/connections/{integration:str}",
    guards=requires("connection.write"),
    responses=guarded(
        "malformed", "conflict", "too_large", "invalid", "unresolved", "upstream_failed"
    ),
    summary="Import a connection",
)
async def write(
    user_id: User,
    integration: IntegrationPath,
    data: JSONBody[ImportIn],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
) -> ConnectionOut:
    """Take over tokens that the platform already holds. Makes the user where there is none."""
    return ConnectionOut.of(
        await vault.import_connection(caller, UserId(user_id), integration, data.wanted(caller))
    )


@delete(
    "/v1/users/{user_id:str}/connections/{integration:str}",
    guards=requires("connection.delete"),
    status_code=200,
    responses=guarded("not_found", "invalid"),
    summary="Delete a user's connection",
)
async def remove_of_user(
    user_id: User,
    integration: IntegrationPath,
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    environment: InEnvironment = None,
) -> DeletedOut:
    where = environment_of(caller, environment)
    found = await vault.find_connection(caller, user_id, integration, where)
    outcome = await vault.delete_connection(caller, found.connection_id)
    return DeletedOut(id=found.connection_id, revoked=outcome)


@get(
    "/v1/connections/{connection_id:str}",
    guards=requires("connection.read"),
    responses=guarded("not_found", "invalid"),
    summary="Get a connection",
)
async def read(
    connection_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> ConnectionDetailOut:
    found = await vault.get_connection(caller, connection_id)
    return await ConnectionDetailOut.opened(vault, caller, found)


@delete(
    "/v1/connections/{connection_id:str}",
    guards=requires("connection.delete"),
    status_code=200,
    responses=guarded("not_found", "invalid"),
    summary="Delete a connection",
)
async def remove(
    connection_id: Id, caller: NamedDependency[Caller], vault: NamedDependency[Vault]
) -> DeletedOut:
    """Gone at once. Its tokens are given back to the provider, again and again for a day."""
    return DeletedOut(
        id=connection_id, revoked=await vault.delete_connection(caller, connection_id)
    )


@post(
    "/v1/connections/import",
    guards=requires_lines("connection.write"),
    status_code=200,
    request_max_body_size=MAX_IMPORT,
    operation_class=of_lines(ImportLine, ImportResult),
    responses=guarded("malformed", "too_large", "invalid"),
    summary="Import many connections",
)
async def bulk(
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
) -> Stream:
    """A JSON object a line, each like a single import with `user_id` and `integration`. The answer
    has a line for each, in order; a line that fails leaves the others alone.
    """
    every = enumerate((await request.body()).splitlines(), 1)
    lines = [(number, line) for number, line in every if line.strip()]
    if not lines:
        raise Malformed("There is no line in this body.")

    async def results() -> AsyncIterator[bytes]:
        for number, line in lines[:MAX_LINES]:
            yield msgspec.json.encode(await _imported(vault, caller, number, line)) + b"\n"
        if len(lines) > MAX_LINES:
            refused = ImportResult(
                line=lines[MAX_LINES][0],
                ok=False,
                code="too_large",
                detail=f"At most {MAX_LINES} lines at once; the rest was not read.",
            )
            yield msgspec.json.encode(refused) + b"\n"

    return Stream(results(), media_type=LINES)


async def _imported(vault: Vault, caller: Caller, number: int, line: bytes) -> ImportResult:
    if len(line) > MAX_LINE:
        return ImportResult(line=number, ok=False, code="too_large", detail="Too long a line.")
    try:
        wanted = _line.decode(line)
        made = await vault.import_connection(
            caller, UserId(wanted.user_id), wanted.integration, wanted.wanted(caller)
        )
    except msgspec.ValidationError as error:
        detail = reason_of(str(error).partition(" - at ")[0])
        return ImportResult(line=number, ok=False, code="invalid", detail=detail)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ImportResult(line=number, ok=False, code="malformed", detail="This is not JSON.")
    except VaultError as error:
        problem = problem_of(error, "")
        return ImportResult(line=number, ok=False, code=problem.code, detail=problem.detail)
    return ImportResult(line=number, ok=True, id=made.connection_id)


def _page(found: list[Connection], limit: int) -> Listing[ConnectionOut]:
    return Listing(
        data=[ConnectionOut.of(one) for one in found[:limit]],
        next_cursor=next_cursor([one.connection_id for one in found], limit),
    )


router = Router(
    "/",
    route_handlers=[
        listing,
        of_user,
        of_user_at,
        write,
        remove_of_user,
        read,
        remove,
        bulk,
    ],
    tags=["connections"],
)
