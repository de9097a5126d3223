"""/v1/jwks/{workspace_id} and /v1/signing-keys: what a workspace's sealed tokens are signed with.

Public keys are for everybody. What is no workspace answers like one that has never signed.
"""

import re
from typing import Annotated, Any, Final

from litestar import Request, Response, Router, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from broker.api import examples
from broker.api.messages import Message
from broker.api.requests import IdempotencyKey, once_of, requires
from broker.api.responses import guarded, problems
from broker.broker import Broker
from vault.model import Caller, WorkspaceId
from vault.vault import Vault

MAX_AGE: Final = 300  # seconds; far less than a new key is published ahead
_WORKSPACE: Final = re.compile(r"ws_[0-9a-z]{26}")

PublishedIn = Annotated[str, examples.path("ws_01k9v7q3x8w2r5t6y7z8a9b0c1")]


class JwksOut(Message, frozen=True, kw_only=True):
    """A JSON Web Key Set (RFC 7517)."""

    keys: list[dict[str, str]]


class RotateIn(Message, frozen=True, kw_only=True):
    """`compromised`: others have the present key, so that nothing it signed is good any more."""

    compromised: bool = False


class RotatedOut(Message, frozen=True, kw_only=True):
    """The new key, as `kid` names it."""

    key_id: str


@get(
    "/v1/jwks/{workspace_id:str}",
    responses=problems("invalid"),
    security=[{}],
    tags=["signing-keys"],
    summary="Get a workspace's public keys",
)
async def jwks(workspace_id: PublishedIn, broker: NamedDependency[Broker]) -> Response[JwksOut]:
    """A runtime verifies sealed tokens with these. A new key is here an hour before it signs."""
    keys: list[dict[str, Any]] = []
    if _WORKSPACE.fullmatch(workspace_id):
        keys = await broker.signing.published(WorkspaceId(workspace_id))
    # An empty set is not to be kept: the first key signs at once.
    kept = f"public, max-age={MAX_AGE}" if keys else "no-store"
    return Response(JwksOut(keys=keys), headers={"Cache-Control": kept})


@post(
    "/v1/signing-keys",
    guards=requires("signing_key.rotate"),
    responses=guarded(
        "malformed", "idempotency_in_progress", "too_large", "invalid", "idempotency_mismatch"
    ),
    tags=["signing-keys"],
    summary="Make the next signing key",
)
async def rotate(
    request: Request[Any, Any, Any],
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    broker: NamedDependency[Broker],
    data: JSONBody[RotateIn | None] = None,
    idempotency_key: IdempotencyKey = None,
) -> RotatedOut:
    """It signs an hour from now, and the present one verifies on; or, where that is compromised, it
    signs at once and alone. By itself a key is replaced after 90 days.
    """
    wanted = data or RotateIn()
    once = await once_of(request, vault, idempotency_key)
    made = await broker.signing.rotate(caller, compromised=wanted.compromised, once=once)
    return RotatedOut(key_id=made)


router = Router("/", route_handlers=[jwks, rotate])
