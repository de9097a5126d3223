"""The door's part for invitations: links that a platform makes, and what it hears of them.

* A link is an invitation, not a key: whoever opens it can only connect an account of their own to
  the one user that it names.
* Opening a link uses nothing up. A person is sent back to registered origins alone, and with
  ``confirm: backend`` brings a code that is of use to the platform for the invited user only.
"""

import hmac
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from vault import access, audit, bearer, idempotency
from vault.consent import (
    MAX_INTEGRATIONS,
    SESSION_SECONDS,
    Connection,
    Flow,
    NewSession,
    Outcome,
    Session,
    Stage,
)
from vault.database import Transaction
from vault.errors import Conflict, Invalid, NotFound, VaultError
from vault.model import Caller, Once, Page, UserId, WorkspaceId, new_id
from vault.providers.schema import Provider
from vault.secret import Secret
from vault.store import connections as rows
from vault.store import environments as environment_rows
from vault.store import get_workspace
from vault.store import tries as try_rows
from vault.store.connections import IntegrationRow
from vault.store.tries import NewInvitation
from vault.vault.door import found
from vault.vault.tries import Tries, person

_session_json = msgspec.json.Encoder().encode
_session_from_json = msgspec.json.Decoder(Session).decode


class Item(Struct, frozen=True, kw_only=True):
    """One integration that a link offers."""

    integration: str
    provider: Provider
    scopes: tuple[str, ...]
    done: bool
    leaves_to: tuple[str, ...]  # where its button may lead


class Invitation(Struct, frozen=True, kw_only=True):
    """What a link opens."""

    workspace: str
    session: Session
    items: tuple[Item, ...]


class Invitations(Tries):
    """Links, opened by persons and made and completed by platforms."""

    async def create_connect_session(
        self, caller: Caller, wanted: NewSession, once: Once | None = None
    ) -> tuple[Session, Secret | None]:
        """Invite a user to connect. The link's bearer is given this once."""
        access.permit(caller, "connect_session.write")
        access.permit_environment(caller, wanted.environment)
        new = await self._invited(caller, wanted)

        async def before(tx: Transaction) -> bytes | None:
            earlier = await idempotency.earlier(tx, caller, once)
            if earlier is None:
                await self._refuse_return_url(tx, new.return_url)
            return earlier

        # What is refused, or repeated, makes no user.
        if earlier := await self._database.run(caller.workspace, before):
            return _session_from_json(earlier), None
        await self._ensure_user(caller, UserId(new.user_id))
        sealing = await self._store.seal_of(caller.workspace)
        link = bearer.generate("connect")

        async def work(tx: Transaction) -> tuple[Session, Secret | None]:
            if earlier := await idempotency.claim(tx, caller, once):
                return _session_from_json(earlier), None
            await self._refuse_return_url(tx, new.return_url)
            session = await try_rows.insert_session(
                tx,
                new_id("cs"),
                self.fingerprint(link),
                new,
                confirm=new.confirm or ("backend" if new.return_url else "page"),
                created_by=caller.actor_id,
                lifetime=SESSION_SECONDS,
            )
            await audit.record(
                tx,
                caller,
                "connect_session.write",
                target=("connect_session", session.session_id),
                user_ref=sealing.user_ref(new.user_id),
                environment=new.environment,
            )
            await idempotency.settle(tx, caller, once, _session_json(session))
            return session, link

        return await self._database.run(caller.workspace, work)

    async def invite_users(
        self, caller: Caller, wanted: Mapping[str, Sequence[str]], environment: str
    ) -> dict[str, dict[str, Secret]]:
        """Invite many users, each to connect some integrations: one link a user, in one statement.

        Returns the addresses by user and integration. Users and integrations that are not there
        get none.
        """
        access.permit(caller, "connect_session.write")
        access.permit_environment(caller, environment)
        sealing = await self._store.seal_of(caller.workspace)
        there = {
            row.integration
            for row in await self._database.run(
                caller.workspace, lambda tx: rows.list_integrations(tx, Page(10_000))
            )
        }
        offered = {
            user_id: [one for one in dict.fromkeys(integrations) if one in there][:MAX_INTEGRATIONS]
            for user_id, integrations in wanted.items()
        }
        links = {user_id: bearer.generate("connect") for user_id, some in offered.items() if some}
        new = [
            NewInvitation(
                user_id=user_id,
                session_id=new_id("cs"),
                hash=self.fingerprint(links[user_id]),
                integrations=tuple(offered[user_id]),
                event_id=new_id("evt"),
                user_ref=sealing.user_ref(user_id),
            )
            for user_id in links
        ]

        async def work(tx: Transaction) -> list[str]:
            return await try_rows.insert_sessions(
                tx, caller, new, environment=environment, lifetime=SESSION_SECONDS
            )

        made = set(await self._database.run(caller.workspace, work))
        return {
            one.user_id: dict.fromkeys(one.integrations, self._address(links[one.user_id]))
            for one in new
            if one.session_id in made
        }

    def _address(self, link: Secret) -> Secret:
        return Secret(f"{self.origin}/connect/{link.reveal()}")

    async def list_connect_sessions(
        self, caller: Caller, page: Page, *, user_id: str = ""
    ) -> list[tuple[Session, list[Flow]]]:
        """Invitations, and the tries in them, in the environments that this caller reaches."""
        access.permit(caller, "connect_session.list")

        async def work(tx: Transaction) -> list[tuple[Session, list[Flow]]]:
            every = await try_rows.list_sessions(
                tx, page, user_id=user_id, environments=caller.environments
            )
            return [(one, await try_rows.list_flows(tx, one.session_id)) for one in every]

        return await self._database.run(caller.workspace, work)

    async def get_connect_session(
        self, caller: Caller, session_id: str
    ) -> tuple[Session, list[Flow]]:
        """An invitation, and what became of it so far."""
        access.permit(caller, "connect_session.read")
        return await self._session(caller, session_id)

    async def cancel_connect_session(self, caller: Caller, session_id: str) -> None:
        """Take an invitation back; what waits in it for a confirmation is given back, too."""
        access.permit(caller, "connect_session.delete")
        session, flows = await self._session(caller, session_id)
        sealing = await self._store.seal_of(caller.workspace)
        for flow in flows:
            if flow.status in ("choice", "confirm"):
                by = person(caller.workspace, session_id)
                await self._fail(await self._way(by, session, flow, Secret("")), "superseded")

        async def work(tx: Transaction) -> None:
            found(await try_rows.delete_session(tx, session_id) or None)
            await audit.record(
                tx,
                caller,
                "connect_session.delete",
                target=("connect_session", session_id),
                user_ref=sealing.user_ref(session.user_id),
                environment=session.environment,
            )

        await self._database.run(caller.workspace, work)

    async def end_abandoned(self, *, limit: int = 20) -> int:
        """Give back what waits for somebody who does not come; returns how many links had it."""
        if self._worker is None:
            return 0
        due = await try_rows.abandoned_sessions(self._worker, limit)
        for one in due:
            await self._end_waiting(person(one.workspace_id, one.id))
        return len(due)

    async def _end_waiting(self, caller: Caller) -> None:
        session, flows = await self._session(caller, caller.actor_id)
        for flow in flows:
            if flow.status in ("choice", "confirm"):
                with suppress(VaultError):  # what cannot be ended now does not hold the others up
                    await self._fail(await self._way(caller, session, flow, Secret("")), "expired")
        await self._database.run(
            caller.workspace, lambda tx: try_rows.settle_session(tx, session.session_id)
        )

    async def _session(self, caller: Caller, session_id: str) -> tuple[Session, list[Flow]]:
        async def work(tx: Transaction) -> tuple[Session, list[Flow]]:
            session = found(await try_rows.get_session(tx, session_id))
            return session, await try_rows.list_flows(tx, session_id)

        session, flows = await self._database.run(caller.workspace, work)
        if not access.within_environments(caller, [session.environment]):
            raise NotFound
        return session, flows

    async def complete_connect_session(
        self, caller: Caller, session_id: str, code: Secret, user_id: str
    ) -> Connection:
        """The platform says which of its users brought the code back. Another one gets nothing."""
        access.permit(caller, "connect_session.complete")
        hashed = self.fingerprint(code)
        session, flows = await self._session(caller, session_id)
        flow = next(
            (one for one in flows if one.code_hash and hmac.compare_digest(one.code_hash, hashed)),
            None,
        )
        if flow is None:
            raise NotFound("There is no such code, or it has been used.")
        if flow.status != "confirm" or flow.expired:
            raise Conflict("This code has been used, or is too old.")
        way = await self._way(caller, session, flow, Secret(""))
        if session.user_id != user_id:
            await self._fail(way, "wrong_account")
            raise Invalid("Another user was invited. Nothing was connected.", pointer="/user_id")
        return await self._activate(way, await self._given(way))

    async def open_link(self, link: str) -> Invitation | Outcome:
        """Read what a link offers. That does not use it up."""
        opened = await self._session_of(link)
        if opened is None:
            return "expired"
        caller, session = opened
        if session.expired:
            return "expired"

        async def work(tx: Transaction) -> tuple[str, list[Flow], list[IntegrationRow | None]]:
            workspace = found(await get_workspace(tx, caller.workspace))
            flows = await try_rows.list_flows(tx, session.session_id)
            every = [await rows.get_integration(tx, one) for one in session.integrations]
            return workspace.name, flows, every

        name, flows, every = await self._database.run(caller.workspace, work)
        finished = {one.integration for one in flows if is_finished(one)}
        items = [
            await self._item(caller.workspace, row, done=row.integration in finished)
            for row in every
            if row is not None
        ]
        return Invitation(workspace=name, session=session, items=tuple(items))

    async def _invited(self, caller: Caller, wanted: NewSession) -> NewSession:
        if wanted.confirm == "backend" and wanted.return_url is None:
            raise Invalid("Without a return_url nobody brings a code back.", pointer="/return_url")
        every = await self._database.run(
            caller.workspace, lambda tx: rows.list_integrations(tx, Page(10_000))
        )
        names = [row.integration for row in every]
        if missing := [one for one in wanted.integrations if one not in names]:
            raise Invalid("There is no such integration.", pointer=f"/integrations/{missing[0]}")
        chosen = tuple(dict.fromkeys(wanted.integrations)) or tuple(names)
        if not chosen:
            raise Conflict("This workspace has no integration yet.")
        if len(chosen) > MAX_INTEGRATIONS:
            raise Invalid(f"At most {MAX_INTEGRATIONS} in one link.", pointer="/integrations")
        return replace(wanted, integrations=chosen)

    async def _refuse_return_url(self, tx: Transaction, return_url: str | None) -> None:
        """Only to an origin that the workspace registered, character by character."""
        if return_url is None:
            return
        settings = await environment_rows.get_settings(tx)
        if not _may_return(return_url, settings.return_origins, loopback=self._loopback_returns):
            raise Invalid(
                "The origin of this return_url is not registered: see return_origins in "
                "/v1/settings.",
                pointer="/return_url",
            )

    async def _session_of(self, link: str) -> tuple[Caller, Session] | None:
        if bearer.kind_of(link) != "connect":
            return None
        hashed = self.fingerprint(link)
        owner = await try_rows.look_up(self._database, hashed, "connect")
        if owner is None or not hmac.compare_digest(owner.hash, hashed):
            return None
        session = await self._database.run(
            owner.workspace_id, lambda tx: try_rows.get_session(tx, owner.id)
        )
        return (person(owner.workspace_id, owner.id), session) if session else None

    async def _item(self, workspace: WorkspaceId, row: IntegrationRow, *, done: bool) -> Item:
        registration = await self._registration(workspace, row)
        provider = await self._facts(registration.provider)
        scopes = registration.scopes
        url = registration.variables.get("authorize_url", registration.variables.get("issuer"))
        if not isinstance(url, str):
            url = provider.authorize.url if provider.authorize and provider.authorize.url else ""
        return Item(
            integration=row.integration,
            provider=provider,
            scopes=tuple(provider.scopes.default if scopes is None else scopes),
            done=done,
            leaves_to=(url,) if url.startswith("http://") else ("https://any.example",),
        )


def is_finished(flow: Flow) -> bool:
    waits_for_backend = flow.status == "confirm" and flow.code_hash is not None
    return flow.status == "done" or waits_for_backend


def return_address(stage: Stage) -> str | None:
    """Where a person is sent at the end, with what became of it."""
    if stage.session.return_url is None or stage.outcome is None:
        return None
    told = {
        "connect_session": stage.session.session_id,
        "integration": stage.integration,
        "status": stage.outcome,
    }
    if stage.missing_scopes:
        told["missing_scopes"] = " ".join(stage.missing_scopes)
    if stage.code is not None:
        told["code"] = stage.code.reveal()
    separator = "&" if urlsplit(stage.session.return_url).query else "?"
    return stage.session.return_url + separator + urlencode(told)


def _may_return(url: str, origins: list[str], *, loopback: bool) -> bool:
    if not url.isascii() or any(one <= " " or one in '\\\x7f"<>' for one in url):
        return False
    parts = urlsplit(url)
    if parts.username or parts.password or parts.fragment or not parts.hostname:
        return False
    origin = f"{parts.scheme}://{parts.netloc}"
    if not url.startswith(origin):
        return False  # a scheme in capitals
    if origin in origins:
        return True
    return loopback and parts.scheme in ("http", "https") and _is_loopback(parts.hostname)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return False
