"""POST /tokens/refresh: an agent's tool for the moment when an API says 401.

A raw handler: a person on the telephone waits for it. What it takes and answers is described by
``RefreshIn`` and ``RefreshOut``, and tested against them.
"""

from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, Router, post
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from msgspec import Meta, Struct

from broker.api.messages import Instant
from broker.api.requests import RuntimeKey, held_of
from broker.api.responses import guarded, of_json
from broker.broker import Broker
from broker.gateway.renewal_rules import Asked, Status
from broker.gateway.renewals import Renewed
from vault.errors import Invalid, Malformed
from vault.secret import Secret

DryRun = Annotated[
    bool, QueryParameter(description="Do everything, and put no credential in the answer.")
]


class RefreshIn(Struct, frozen=True, kw_only=True):
    """`integration`, or `provider` where the conversation has one connection there. `generation`:
    the one that you have. `rejected`: the API refused it, and another has to be fetched.

    Other fields change nothing; a `user_id` or a `conversation_id` that is not the grant's own is
    refused.
    """

    integration: Annotated[str, Meta(max_length=500)] | None = None
    provider: Annotated[str, Meta(max_length=500)] | None = None
    generation: int | Annotated[str, Meta(max_length=20)] | None = None
    rejected: bool = False
    conversation_id: Annotated[str, Meta(max_length=500)] | None = None
    user_id: Annotated[str, Meta(max_length=500)] | None = None


class RefreshOut(Struct, frozen=True, kw_only=True):
    """`current`: as good as it was. `refreshed`: a new one. `degraded`: it lives, and no newer one
    could be had. `variables` are named as in the conversation; who holds a handle gets no secret.
    """

    status: Status
    integration: str
    generation: int
    expires_at: Instant | None
    expires_in: int | None
    variables: dict[str, str | bool | int | float]

    @classmethod
    def of(cls, found: Renewed) -> "RefreshOut":
        return cls(
            status=found.status,
            integration=found.integration,
            generation=found.generation,
            expires_at=found.expires_at,
            expires_in=found.expires_in,
            variables={
                name: value.reveal() if isinstance(value, Secret) else value
                for name, value in found.variables.items()
            },
        )


_decode: Final = msgspec.json.Decoder(Asked).decode
_encode: Final = msgspec.json.Encoder().encode


@post(
    "/tokens/refresh",
    status_code=200,
    responses=guarded(
        "malformed",
        "not_found",
        "connection_missing",
        "needs_reauth",
        "too_large",
        "invalid",
        "rate_limited",
        "provider_unavailable",
    ),
    operation_class=of_json(RefreshIn, RefreshOut),
    tags=["conversations"],
    summary="Refresh a token in mid-conversation",
)
async def refresh(
    request: Request[Any, Any, Any],
    broker: NamedDependency[Broker],
    dry_run: DryRun = False,  # noqa: FBT002 - Litestar passes it by name
    runtime_key: RuntimeKey = None,
) -> Response[bytes]:
    """With a grant or a handle, as `Authorization: Bearer`. It alone says whose token this is."""
    held = await held_of(request, broker, runtime_key)
    renewed = await broker.renewals.renew(held, _asked(await request.body()), dry_run=dry_run)
    return Response(
        _encode(RefreshOut.of(renewed)),
        media_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _asked(body: bytes) -> Asked:
    """Read a body; what it holds is not repeated."""
    try:
        return _decode(body or b"{}")
    except msgspec.ValidationError as error:
        # "... - at `$.generation`": the library names the place, and never the value.
        place = str(error).rpartition("`$.")[2].rstrip("`")
        problem = f"/{place}" if place.isidentifier() else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Malformed("The body is not valid JSON.") from None
    raise Invalid("A field is not of its type.", pointer=problem)


router = Router("/", route_handlers=[refresh])
