"""What a mint has to know, as one statement finds it for a batch of mints.

* Each row is of the living key that was asked with, and of its workspace alone.
* The connections stand in texts, as ``broker/migrations/0011_mint_find.sql`` says; here they are
  taken apart, in the order of ``shape``.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from broker.conversation import Delivery
from broker.mint.batches import by_place
from broker.profile import Profile, Runtime
from vault.lifecycle.handout import MOST_OF_LIFETIME
from vault.model import Caller, KeyId, Scope, WorkspaceId
from vault.sql import Query
from vault.store.surveys import UserRow, UserSeals
from vault.vault import Vault
from vault.vault.looks import Settled

WORDS: Final = 6  # of a life
NOWHERE: Final = "-"
SECOND: Final = 1_000_000  # microseconds
_NO_LIFE: Final = ("0", "pending", NOWHERE, NOWHERE, NOWHERE)  # but for its id
_NO_TOKENS: Final = ("0", b"")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Question(Struct, frozen=True):
    """What the statement is asked, in the order of its parameters."""

    hashes: bytes
    user_ids: str
    environments: str
    agent_ids: str


class Place(NamedTuple):
    """What of a connection is the same for nearly all users of an agent."""

    integration: str
    environment: str
    provider: str
    scopes: list[str] | None


class Stands(NamedTuple):
    """How connections stand, column by column, in the words of the statement.

    ``sealed``: their tokens; of no bytes where there are none.
    """

    ids: tuple[str, ...] = ()
    generations: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    noticed: tuple[str, ...] = ()
    issued: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    tokens_generations: tuple[str, ...] = ()
    sealed: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return f"Stands({self.ids})"

    def at(self, places: Sequence[int]) -> "Stands":
        """Those at these places, in their order."""
        return Stands._make([tuple([column[one] for one in places]) for column in self])

    def are_late(self, now: int, min_ttl: int) -> tuple[bool, ...] | None:
        """Which tokens last less long than was asked for; ``None`` where one of them cannot be
        handed out as it is: what ``Settled.lasts`` says, in whole microseconds. All are active.
        """
        if NOWHERE in self.issued or b"" in self.sealed:
            return None
        enough = min_ttl * SECOND
        if NOWHERE not in self.ends and min(map(int, self.ends), default=now) - now > enough:
            return (False,) * len(self.ids)
        late = []
        for issued, ends in zip(self.issued, self.ends, strict=True):
            left = enough + 1 if ends == NOWHERE else int(ends) - now
            if left <= enough and left <= (int(ends) - int(issued)) * MOST_OF_LIFETIME:
                return None
            late.append(left < enough)
        return tuple(late)


class Rights(NamedTuple):
    """What a key may do."""

    scopes: frozenset[Scope]
    environments: tuple[str, ...]
    expires_at: datetime | None


class LookRow(UserSeals, frozen=True):
    """All that one mint has to know, as one moment has it."""

    place: int
    workspace_id: WorkspaceId
    api_key_id: KeyId
    hash: bytes
    rights: str
    key_unnoticed: bool
    environment: str
    agent_generation: int | None
    agent_sealed: bytes | None
    has_upstream: bool
    now: int
    connection_ids: str
    shape: str
    lives: str
    token_ids: str
    tokens: list[bytes]

    def __repr__(self) -> str:
        return f"LookRow({self.place})"

    def caller(self, request_id: str) -> Caller:
        """Whose key it is."""
        rights = rights_from(self.rights)
        return Caller(
            kind="key",
            actor_id=self.api_key_id,
            workspace=self.workspace_id,
            scopes=rights.scopes,
            environments=rights.environments,
            expires_at=rights.expires_at,
            request_id=request_id,
        )

    def is_ours_alone(
        self, environment: str, runtime: Runtime, delivery: Delivery, profile: Profile | None
    ) -> bool:
        """Does nobody have to be asked, and no other key be fetched?"""
        if self.environment != environment:
            return False
        if runtime == "elevenlabs":
            return delivery == "relay" and self.has_upstream
        if runtime == "livekit":
            return False  # its project signs, which the long way knows
        return profile is None or profile.public_key is None or delivery != "sealed"

    def stands(self) -> Stands:
        """How the connections stand, in the order of their places."""
        if not self.connection_ids:
            return Stands()
        ids, words = self.connection_ids.split(" "), self.lives.split(" ")
        lives = dict(zip(words[::WORDS], zip(*[iter(words)] * WORDS, strict=False), strict=False))
        held = self.token_ids.split(" ")
        tokens = dict(zip(held[::2], zip(held[1::2], self.tokens, strict=False), strict=False))
        if len(lives) < len(ids) or len(tokens) < len(ids):
            lives = {one: lives.get(one, (one, *_NO_LIFE)) for one in ids}
            tokens = {one: tokens.get(one, _NO_TOKENS) for one in ids}
        return Stands(
            *zip(*map(lives.__getitem__, ids), strict=True),
            *zip(*map(tokens.__getitem__, ids), strict=True),
        )

    def user(self, stands: Stands) -> UserRow:
        """The user as a survey reads one."""
        places = places_from(self.shape)
        return UserRow(
            generation=self.generation,
            profile=self.profile,
            user_key=self.user_key,
            key_id=self.key_id,
            version=self.version,
            wrapped=self.wrapped,
            root_key_id=self.root_key_id,
            index_key=self.index_key,
            now=moment(self.now),
            connection_ids=list(stands.ids),
            integrations=[one.integration for one in places],
            environments=[one.environment for one in places],
            states=list(stands.states),
        )

    def tokens_of(self, stands: Stands, number: int) -> Settled | None:
        """What the connection at one place holds; ``None`` unless that is good as it is."""
        one, place = stands.at([number]), places_from(self.shape)[number]
        if one.states != ("active",) or NOWHERE in one.issued or b"" in one.sealed:
            return None
        [issued], [ends] = one.issued, one.ends
        return Settled(
            connection_id=one.ids[0],
            integration=place.integration,
            environment=place.environment,
            provider=place.provider,
            scopes=place.scopes,
            generation=int(one.generations[0]),
            issued_at=moment(int(issued)),
            access_ends=None if ends == NOWHERE else moment(int(ends)),
            tokens_generation=int(one.tokens_generations[0]),
            sealed=one.sealed[0],
        )

    def unnoticed(self, stands: Stands) -> bool:
        """Is it some time since it was noted that the key, or one of these, is in use?"""
        return self.key_unnoticed or NOWHERE in stands.noticed


look: Final = Query("batches", "look", LookRow, package="broker")


async def look_up(vault: Vault, questions: Sequence[Question]) -> list[LookRow | None]:
    """Ask them together; ``None`` where a question found nothing."""
    rows = await vault.look_up_for_guest(look, **look.columns(questions))
    return by_place(rows, len(questions))


def moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(0, 0, microseconds)


# Of one key, and of one kind of users, they say the same each time.


@lru_cache(maxsize=4_096)
def rights_from(text: str) -> Rights:
    scopes, environments, expires_at = _rights_from(text)
    return Rights(frozenset(scopes), tuple(environments), expires_at)


@lru_cache(maxsize=4_096)
def places_from(shape: str) -> tuple[Place, ...]:
    return tuple([_place(line) for line in shape.split("\n")]) if shape else ()


def _place(line: str) -> Place:
    integration, environment, provider, *scopes = line.split(" ", 3)
    return Place(integration, environment, provider, _scopes_from(scopes[0]) if scopes else None)


_rights_from: Final = msgspec.json.Decoder(tuple[list[Scope], list[str], datetime | None]).decode
_scopes_from: Final = msgspec.json.Decoder(list[str]).decode
