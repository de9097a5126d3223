"""/v1/audit-events: who did what in the workspace."""

from typing import Annotated

from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from broker.api.messages import AuditEventOut, Listing
from broker.api.requests import DEFAULT_LIMIT, Cursor, Limit, next_cursor, page_of, requires
from broker.api.responses import guarded
from vault.access import Action
from vault.audit import Happening
from vault.model import USER_ID_PATTERN, Caller, UserId
from vault.vault import Vault


@get(guards=requires("audit.read"), responses=guarded("invalid"), summary="List the audit events")
async def listing(
    caller: NamedDependency[Caller],
    vault: NamedDependency[Vault],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    action: Annotated[
        Action | Happening | None,
        QueryParameter(description="Only this action, as in `key.create`."),
    ] = None,
    user_id: Annotated[
        str | None,
        QueryParameter(pattern=USER_ID_PATTERN, description="Only what concerns this user."),
    ] = None,
) -> Listing[AuditEventOut]:
    """Newest first. People appear under a pseudonym that only this workspace's key can make."""
    found = await vault.audit_events(
        caller,
        page_of(limit, cursor),
        action=action or "",
        user_id=UserId(user_id) if user_id else None,
    )
    data = [AuditEventOut.of(event) for event in found[:limit]]
    return Listing(data=data, next_cursor=next_cursor([event.event_id for event in found], limit))


router = Router("/v1/audit-events", route_handlers=[listing], tags=["audit"])
