"""The record of who did what: appended in the transaction of the deed, never changed.

* A change and its line commit together, so there is no deed without a line and no line without.
* A credential is read in the same way: its line is durable before the value leaves.
* A line names things by id, and people by a pseudonym: no token, no name, no e-mail address.
"""

from typing import Final, Literal, get_args

from vault.database import Transaction
from vault.model import AuditEvent, Caller, Page, new_id
from vault.sql import Nothing, Query

# What happens on the way, while somebody does what ``access`` has a name for.
Happening = Literal[
    "auth_connection.use",
    "auth_connection.fetch",
    "auth_connection.rejected",
    "chain.forget",
    "connect.begin",
    "connect.wait",
    "connect.end",
    "connection.connect",
    "connection.import",
    "connection.revoke",
    "conversation.admit",
    "event_endpoint.disable",
]
HAPPENINGS: Final[tuple[Happening, ...]] = get_args(Happening)

_insert: Final = Query("audit_events", "insert", Nothing)
_list: Final = Query("audit_events", "list", AuditEvent)


async def record(
    tx: Transaction,
    caller: Caller,
    action: str,
    *,
    target: tuple[str, str] = ("", ""),
    user_ref: str = "",
    environment: str = "",
    outcome: str = "ok",
) -> None:
    """Write one line in the caller's transaction; ``target`` is a kind and an id."""
    await _insert.run(
        tx,
        workspace_id=tx.workspace,
        event_id=new_id("evt"),
        actor_kind=caller.kind,
        actor_id=caller.actor_id,
        action=action,
        target_kind=target[0],
        target_id=target[1],
        user_ref=user_ref,
        environment=environment,
        outcome=outcome,
        request_id=caller.request_id,
    )


async def events(
    tx: Transaction, page: Page, *, action: str = "", user_ref: str = ""
) -> list[AuditEvent]:
    """Newest first."""
    return await _list.all(
        tx,
        workspace_id=tx.workspace,
        before=page.after,
        action=action,
        user_ref=user_ref,
        limit=page.limit,
    )
