"""What a conversation is given to start with: its bearers, and its variables with their values.

* A bearer is made here, goes out once and is stored as a keyed hash.
* Values are read for the conversation itself, when they are delivered and not before.
"""

import secrets
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from broker.conversation import BearerKind, Delivery, Reached
from broker.conversations import Bearers
from broker.profile import is_secret
from broker.variables import SECRET_PLACEHOLDER, Person, Plan, Scalar, Usable, Value
from broker.variables.filling import Credential, Values, fill
from vault import bearer
from vault.errors import Unresolved
from vault.model import Caller
from vault.secret import Secret
from vault.vault import Vault
from vault.vault.refreshing import Fresh
from vault.vault.surveys import Survey

TICKET_SIZE: Final = 32  # bytes


class Issued(Struct, frozen=True, kw_only=True):
    """What opens a conversation, in clear. A ticket does so once."""

    kind: BearerKind | None = None
    bearer: Secret | None = None
    ticket: Secret | None = None

    def __repr__(self) -> str:
        return f"Issued({self.kind})"

    @property
    def authorization(self) -> Secret | None:
        """The bearer as a whole header's value."""
        return None if self.bearer is None else Secret(f"Bearer {self.bearer.reveal()}")


def issue(delivery: Delivery, *, armed: bool) -> Issued:
    """Make what this delivery needs. Who takes a ticket gets a grant when the ticket is used."""
    if delivery == "relay":
        return Issued(ticket=Secret(secrets.token_urlsafe(TICKET_SIZE)))
    if delivery == "handle" or not armed:
        return Issued(kind="handle", bearer=bearer.generate("handle"))
    return issue_grant()


def issue_grant() -> Issued:
    return Issued(kind="grant", bearer=bearer.generate("grant"))


def redeemable(issued: Issued) -> Issued:
    """The same, with a token that its runtime redeems once."""
    return Issued(kind=issued.kind, bearer=issued.bearer, ticket=bearer.generate("sealed"))


def person_of(survey: Survey) -> Person:
    """What variables may say of the user."""
    profile = survey.profile
    return Person(user_id=survey.user_id, name=profile.name, attributes=profile.attributes)


def reached_by(survey: Survey, planned: Plan) -> tuple[Reached, ...]:
    """The connections that the plan draws upon."""
    every = [
        Reached(
            integration=integration,
            connection_id=connection_id,
            environment=survey.connections[integration].environment,
        )
        for integration, connection_id in planned.connections.items()
    ]
    return tuple(every)


def usable(one: Fresh) -> Usable:
    return Usable(
        integration=one.integration,
        connection_id=one.connection_id,
        extras=tuple(one.extras),
        scopes=None if one.scopes is None else frozenset(one.scopes),
    )


def shown(values: Mapping[str, Value], delivery: Delivery) -> Mapping[str, Value]:
    """What the client gets to see of them: never more than its delivery is good for."""
    if delivery in ("relay", "sealed"):
        return without_secrets(values)
    return values


def without_secrets(values: Mapping[str, Value]) -> dict[str, Value]:
    """Nothing whose name says that it is one, not even a placeholder."""
    return {
        name: one
        for name, one in values.items()
        if not is_secret(name) and not isinstance(one, Secret)
    }


def spent_ones(values: Mapping[str, Value], delivery: Delivery) -> dict[str, Value]:
    """What is still said of a conversation that has begun, or is over.

    A call lacks no variable even so: a runtime ends one at the first that is missing.
    """
    told = without_secrets(values)
    if delivery != "server":
        return told
    return {name: told.get(name, SECRET_PLACEHOLDER) for name in values}


def nobodys(planned: Plan, labels: Mapping[str, Scalar | Secret]) -> dict[str, Value]:
    """Every variable of a plan that is for no user: nothing of anybody, and nothing secret."""
    nobody = Values(person=Person(user_id=""), conversation_id="", labels=labels)
    return fill(planned, nobody, handles_only=True)


def revealed(values: Mapping[str, Value]) -> dict[str, Scalar]:
    """In clear, for whoever they are delivered to."""
    return {name: one.reveal() if type(one) is Secret else one for name, one in values.items()}


def worded(issued: Issued) -> tuple[bytes, bytes]:
    """Bearer and ticket as they go out; of no bytes where there is none."""
    bearer_, ticket = issued.bearer, issued.ticket
    return bearer_.reveal_bytes() if bearer_ else b"", ticket.reveal_bytes() if ticket else b""


class Delivering:
    """Reads values for conversations."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def bearers(self, issued: Issued) -> Bearers:
        """What is stored of it."""
        hashed = self._vault.fingerprint
        return Bearers(
            kind=issued.kind,
            bearer=hashed(issued.bearer) if issued.bearer else None,
            ticket=hashed(issued.ticket) if issued.ticket else None,
        )

    async def values(
        self,
        itself: Caller,
        planned: Plan,
        survey: Survey,
        fresh: Mapping[str, Fresh],
        *,
        environment: str,
        issued: Issued,
        given: Mapping[str, Scalar],
        handles_only: bool = False,
    ) -> dict[str, Value]:
        """Every variable of the plan. ``fresh``: what its connections give now, by integration."""
        return fill(
            planned,
            Values(
                person=person_of(survey),
                conversation_id=itself.actor_id,
                grant=issued.authorization,
                credentials=await self._credentials(
                    itself, {name: fresh[name] for name in planned.connections if name in fresh}
                ),
                labels=await self.labels(itself, planned, environment),
                given=given,
            ),
            handles_only=handles_only,
        )

    async def _credentials(
        self, itself: Caller, fresh: Mapping[str, Fresh]
    ) -> dict[str, Credential]:
        headers = await self._vault.authorizations(itself, list(fresh.values()))
        return {
            integration: Credential(
                token=one.tokens.access_token if one.tokens else None,
                authorization=header,
                generation=one.generation,
                extras=one.extras,
            )
            for (integration, one), header in zip(fresh.items(), headers, strict=True)
        }

    async def labels(
        self, itself: Caller, planned: Plan, environment: str
    ) -> Mapping[str, str | Secret]:
        """What the plan's environment variables say; raises where one has to say something."""
        wanted = planned.labels()
        if not wanted:
            return {}
        found = await self._vault.label_values(itself, set(wanted), environment)
        for name, one in planned.variables.items():
            label = getattr(one.source, "label", None)
            if label in wanted and label not in found and one.default is None:
                raise Unresolved(
                    f"The environment variable '{label}' has no value in '{environment}' for the "
                    f"agent's variable '{name}', and the profile has no default for it."
                )
        return found
