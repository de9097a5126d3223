"""The flow of a number's change: the account is asked, and what it answers is remembered.

* A request goes to the account as it came, and its answer goes back as it is.
* What is kept is what the account says after the deed, and nothing of what did not happen.
* What it shows and what cannot be a number, an environment or a branch is not remembered.
* A number serves every environment, so a key that is tied to some leaves it alone.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from broker.conversation import BRANCH_PATTERN
from broker.telephone import numbers
from broker.telephone.numbers import Number
from broker.upstreams import Upstreams
from broker.upstreams.client import OK, UpstreamClient, decoded, segment
from broker.upstreams.once import OnceAtAccount
from vault import access, audit
from vault.database import Transaction
from vault.egress import Reply
from vault.model import ENVIRONMENT_PATTERN, Caller, Once
from vault.vault import Vault

PATH: Final = "/v1/convai/phone-numbers"
MAX_TEXT: Final = 200

_WHERE: Final = {
    "environment": re.compile(ENVIRONMENT_PATTERN),
    "branch_id": re.compile(BRANCH_PATTERN),
}
_KEPT: Final = re.compile(rf"[^\x00-\x1f\x7f]{{1,{MAX_TEXT}}}")
_GONE: Final = 404


class PhoneNumbers:
    """The numbers of the workspace's account."""

    def __init__(self, vault: Vault, upstreams: Upstreams) -> None:
        self._vault = vault
        self._upstreams = upstreams

    async def list(self, caller: Caller, query: Sequence[tuple[str, str]]) -> Reply:
        """Every number, as the account shows them."""
        reply = await self._asked(caller, "GET", query=query)
        shown = decoded(reply.body) if reply.status in OK else None
        if isinstance(shown, list):
            await self._keep(caller, [one for one in shown if isinstance(one, dict)])
        return reply

    async def get(self, caller: Caller, phone_number_id: str) -> Reply:
        reply = await self._asked(caller, "GET", phone_number_id)
        if reply.status == _GONE:
            await self._vault.within(caller, lambda tx: numbers.forget(tx, phone_number_id))
        else:
            await self._keep_one(caller, phone_number_id, reply)
        return reply

    async def make(self, caller: Caller, body: bytes, once: Once | None = None) -> Reply:
        """Bring a number into the account. Nothing says yet where its calls run."""
        client = await self._client(caller, "phone_number.write")
        asking = OnceAtAccount(self._vault, caller, once)
        if (before := await asking.before()) is not None:
            return Reply(status=before.status, headers=(), body=msgspec.json.encode(before.ids))
        reply = await asking.forward(client, PATH, body)
        await asking.settle(reply, ["phone_number_id"])
        made, asked = decoded(reply.body), decoded(body)
        if reply.status not in OK or not isinstance(made, dict) or not isinstance(asked, dict):
            return reply
        phone_number_id = _text(made.get("phone_number_id"))
        if phone_number_id is not None:
            known = {"phone_number": asked.get("phone_number"), **made}
            await self._keep(caller, [known], changed=phone_number_id)
        return reply

    async def change(self, caller: Caller, phone_number_id: str, body: bytes) -> Reply:
        """Change a number: its agent, and where calls to and from it run."""
        reply = await self._asked(caller, "PATCH", phone_number_id, body=body)
        asked = decoded(body)
        if reply.status in OK and isinstance(asked, dict):
            await self._keep_one(caller, phone_number_id, reply, asked)
        return reply

    async def delete(self, caller: Caller, phone_number_id: str) -> Reply:
        reply = await self._asked(caller, "DELETE", phone_number_id)
        if reply.status in OK or reply.status == _GONE:

            async def work(tx: Transaction) -> None:
                await numbers.forget(tx, phone_number_id)
                await _recorded(tx, caller, phone_number_id)

            await self._vault.within(caller, work)
        return reply

    # For the flows of calls, which have permitted what they do

    async def of_call(
        self, caller: Caller, *, number_id: str = "", number: str = ""
    ) -> Number | None:
        """What is known of the number that a call comes to or goes out from."""
        if number_id:
            return await self._vault.within(caller, lambda tx: numbers.get(tx, number_id))
        return await self._vault.within(caller, lambda tx: numbers.dialled(tx, number))

    async def _asked(
        self,
        caller: Caller,
        method: str,
        phone_number_id: str = "",
        *,
        query: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> Reply:
        action: access.Action = "phone_number.read" if method == "GET" else "phone_number.write"
        client = await self._client(caller, action)
        path = f"{PATH}/{segment(phone_number_id)}" if phone_number_id else PATH
        return await client.forward(path, query, method=method, body=body)

    async def _client(self, caller: Caller, action: access.Action) -> UpstreamClient:
        access.permit(caller, action)
        access.permit_everywhere(caller)
        return await self._upstreams.client(caller)

    async def _keep_one(
        self,
        caller: Caller,
        phone_number_id: str,
        reply: Reply,
        asked: dict[str, Any] | None = None,
    ) -> None:
        shown = decoded(reply.body) if reply.status in OK else None
        if not isinstance(shown, dict) or shown.get("phone_number_id") != phone_number_id:
            return
        if not isinstance(shown.get("assigned_agent"), dict):
            # It shows where calls run only beside an agent; what it took is so all the same.
            shown |= {name: one for name, one in (asked or {}).items() if name in _WHERE}
        await self._keep(caller, [shown], changed="" if asked is None else phone_number_id)

    async def _keep(
        self, caller: Caller, every: Sequence[dict[str, Any]], *, changed: str = ""
    ) -> None:
        """Remember what the account shows; ``changed``: the one that somebody has changed."""

        async def work(tx: Transaction) -> None:
            for one in every:
                phone_number_id = _text(one.get("phone_number_id"))
                before = await numbers.get(tx, phone_number_id) if phone_number_id else None
                if (number := _number(one, before)) is not None:
                    await numbers.keep(tx, number)
            if changed:
                await _recorded(tx, caller, changed)

        await self._vault.within(caller, work)


def _number(shown: dict[str, Any], before: Number | None) -> Number | None:
    """What is said of a number; what is not said stays as it was."""
    phone_number_id, number = _text(shown.get("phone_number_id")), _text(shown.get("phone_number"))
    if phone_number_id is None or number is None:
        return None
    assigned = shown.get("assigned_agent")
    said = assigned if isinstance(assigned, dict) else shown
    return Number(
        phone_number_id=phone_number_id,
        number=number,
        environment=_place(said, "environment", before.environment if before else None),
        branch_id=_place(said, "branch_id", before.branch_id if before else None),
    )


def _place(said: dict[str, Any], name: str, before: str | None) -> str | None:
    """Where calls run, as it is said; what cannot be the name of a place is not said."""
    value = said.get(name, before)
    if value is None or value == "":
        return None
    return value if isinstance(value, str) and _WHERE[name].fullmatch(value) else before


def _text(value: object) -> str | None:
    """A text that can be kept, or nothing: the account may show what we cannot remember."""
    return value if isinstance(value, str) and _KEPT.fullmatch(value) else None


async def _recorded(tx: Transaction, caller: Caller, phone_number_id: str) -> None:
    await audit.record(
        tx, caller, "phone_number.write", target=("phone_number", phone_number_id[:MAX_TEXT])
    )
