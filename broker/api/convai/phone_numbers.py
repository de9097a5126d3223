"""/v1/convai/phone-numbers: the numbers of the workspace's account.

They are kept there. What passes through here is also how we know in which environment and branch
the calls to and from a number run.
"""

from typing import Annotated, Any, Final

from litestar import Request, Response, Router, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import JSONBody, PathParameter
from msgspec import UNSET, Meta, Struct, UnsetType

from broker.api.convai.errors import declared
from broker.api.convai.passing import passed_on
from broker.api.requests import IdempotencyKey, once_of, requires
from broker.broker import Broker
from broker.conversation import BRANCH_PATTERN
from vault.model import ENVIRONMENT_PATTERN, Caller
from vault.vault import Vault

NumberId = Annotated[
    str,
    PathParameter(
        pattern=r"^[A-Za-z0-9_-]{1,128}(?!\n)$",
        examples=[Example(id="example", value="phnum_01k9v7q3x8w2r5t6y7z8a9b0c1")],
    ),
]


class NewNumber(Struct, frozen=True, kw_only=True):
    """Passed on as it comes, with whatever else is in it."""

    phone_number: Annotated[str, Meta(min_length=1, max_length=200)]
    label: str


class ChangedNumber(Struct, frozen=True, kw_only=True):
    """Passed on as it comes, with whatever else is in it."""

    agent_id: str | UnsetType | None = UNSET
    environment: Annotated[str, Meta(pattern=ENVIRONMENT_PATTERN)] | UnsetType | None = UNSET
    branch_id: Annotated[str, Meta(pattern=BRANCH_PATTERN)] | UnsetType | None = UNSET


class NumberMade(Struct, frozen=True, kw_only=True):
    """As ElevenLabs answers."""

    phone_number_id: str


class AssignedAgent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who answers at a number, and where."""

    agent_id: str
    agent_name: str
    environment: str | None = None
    branch_id: str | None = None


class NumberShown(Struct, frozen=True, kw_only=True):
    """As ElevenLabs answers, which says more."""

    phone_number_id: str
    phone_number: str
    label: str
    provider: str
    supports_inbound: bool
    supports_outbound: bool
    assigned_agent: AssignedAgent | None


_PROBLEMS: Final = ("not_found", "invalid", "too_large", "upstream_missing", "upstream_failed")


def _answers(kind: object, *more: str) -> dict[int, ResponseSpec]:
    described: Any = kind
    return {
        200: ResponseSpec(described, generate_examples=False, description="As ElevenLabs answers"),
        **declared(*_PROBLEMS, *more),
    }


@get(
    guards=requires("phone_number.read"),
    responses=_answers(list[NumberShown]),
    summary="List the phone numbers",
)
async def listing(
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
) -> Response[Any]:
    """Asked of the workspace's own account."""
    query = [(name, str(value)) for name, value in request.query_params.multi_items()]
    return passed_on(await broker.numbers.list(caller, query))


@post(
    guards=requires("phone_number.write"),
    status_code=200,
    responses=_answers(NumberMade, "idempotency_in_progress"),
    summary="Import a phone number",
)
async def create(
    data: JSONBody[NewNumber],
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    broker: NamedDependency[Broker],
    idempotency_key: IdempotencyKey = None,
) -> Response[Any]:
    """Into the workspace's own account, once for one Idempotency-Key."""
    del data  # what is in it beside that goes on, too
    once = await once_of(request, vault, idempotency_key)
    return passed_on(await broker.numbers.make(caller, await request.body(), once))


@get(
    "/{phone_number_id:str}",
    guards=requires("phone_number.read"),
    responses=_answers(NumberShown),
    summary="Get a phone number",
)
async def read(
    phone_number_id: NumberId, caller: NamedDependency[Caller], broker: NamedDependency[Broker]
) -> Response[Any]:
    """Asked of the workspace's own account."""
    return passed_on(await broker.numbers.get(caller, phone_number_id))


@patch(
    "/{phone_number_id:str}",
    guards=requires("phone_number.write"),
    responses=_answers(NumberShown),
    summary="Change a phone number",
)
async def update(
    phone_number_id: NumberId,
    data: JSONBody[ChangedNumber],
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    broker: NamedDependency[Broker],
) -> Response[Any]:
    """Its agent, and the environment and branch in which its calls run."""
    del data  # what is in it beside that goes on, too
    return passed_on(await broker.numbers.change(caller, phone_number_id, await request.body()))


@delete(
    "/{phone_number_id:str}",
    guards=requires("phone_number.write"),
    status_code=200,
    responses=_answers(dict[str, Any]),
    summary="Delete a phone number",
)
async def remove(
    phone_number_id: NumberId, caller: NamedDependency[Caller], broker: NamedDependency[Broker]
) -> Response[Any]:
    """From the workspace's own account."""
    return passed_on(await broker.numbers.delete(caller, phone_number_id))


router = Router(
    "/v1/convai/phone-numbers",
    route_handlers=[listing, create, read, update, remove],
    tags=["telephone"],
)
