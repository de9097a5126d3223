"""What a mint has to know, as one statement finds it for a batch of mints.

* Each row is of the living key that was asked with, and of its workspace alone.
* The connections stand in texts, as ``broker/migrations/0011_mint_find.sql`` says; here they are
  taken apart, in the order of ``shape``.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import Final, NamedTuple

import msgspec

from broker.conversation import Delivery
from broker.profile import Profile, Runtime
from vault.lifecycle.handout import MOST_OF_LIFETIME
from vault.model import Caller, KeyId, Scope, WorkspaceId
from vault.sql import Query
from vault.store.surveys import UserRow, UserSeals
from vault.vault.looks import Settled
from vault.vault.surveys import SealedTokens

WORDS: Final = 6  # of a life
NOWHERE: Final = "-"
SECOND: Final = 1_000_000  # microseconds
_NO_LIFE: Final = (NOWHERE, "0", "pending", NOWHERE, NOWHERE, NOWHERE)
_NO_TOKENS: Final = ("0", b"")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Question(NamedTuple):
    """What the statement is asked, in the order of its parameters."""

    hashes: bytes
    user_ids: str
    environments: str
    agent_ids: str


ARRAYS: Final = ("hashes",)


class Place(NamedTuple):
    """What of a connection is the same for nearly all users of an agent."""

    integration: str
    environment: str
    provider: str
    scopes: list[str] | None


class Life(NamedTuple):
    """How one connection stands, in the words of the statement."""

    connection_id: str
    generation: str
    state: str
    noticed: str
    issued: str
    ends: str
    tokens_generation: str
    sealed: bytes  # of no bytes where there are no tokens

    @property
    def is_settled(self) -> bool:
        return self.state == "active" and self.issued != NOWHERE and bool(self.sealed)


class GoodOnes(NamedTuple):
    """Tokens that can be handed out; ``late``: which of them last less long than was asked for."""

    tokens: list[SealedTokens]
    late: tuple[bool, ...]


class Rights(NamedTuple):
    """What a key may do."""

    scopes: frozenset[Scope]
    environments: tuple[str, ...]
    expires_at: datetime | None


class LookRow(UserSeals, frozen=True, dict=True):
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

    @cached_property
    def stands(self) -> list[Life]:
        """How the connections stand, in the order of their places."""
        words, held = self.lives.split(" "), self.token_ids.split(" ")
        columns = [words[number::WORDS] for number in range(WORDS)]
        lives = {life[0]: life for life in zip(*columns, strict=False)}
        tokens = dict(zip(held[::2], zip(held[1::2], self.tokens, strict=False), strict=False))
        ids = self.connection_ids.split(" ") if self.connection_ids else []
        return [
            Life._make((*lives.get(one, _NO_LIFE), *tokens.get(one, _NO_TOKENS))) for one in ids
        ]

    def user(self) -> UserRow:
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
            connection_ids=[one.connection_id for one in self.stands],
            integrations=[one.integration for one in places],
            environments=[one.environment for one in places],
            states=[one.state for one in self.stands],
        )

    def tokens_of(self, connection_id: str) -> Settled | None:
        """What one connection holds; ``None`` unless that is good as it is."""
        number = [one.connection_id for one in self.stands].index(connection_id)
        one, place = self.stands[number], places_from(self.shape)[number]
        if not one.is_settled:
            return None
        return Settled(
            connection_id=connection_id,
            integration=place.integration,
            environment=place.environment,
            provider=place.provider,
            scopes=place.scopes,
            generation=int(one.generation),
            issued_at=moment(int(one.issued)),
            access_ends=None if one.ends == NOWHERE else moment(int(one.ends)),
            tokens_generation=int(one.tokens_generation),
            sealed=one.sealed,
        )

    def good_ones(self, every: Sequence[tuple[Life, Place]], min_ttl: int) -> GoodOnes | None:
        """Their tokens, if all can be handed out as they are: what ``Settled.lasts`` says, in whole
        microseconds.
        """
        tokens, late, enough = [], [], min_ttl * SECOND
        for one, place in every:
            if not one.is_settled:
                return None
            left = enough if one.ends == NOWHERE else int(one.ends) - self.now
            most = one.ends == NOWHERE or left > enough
            if not most and left <= (int(one.ends) - int(one.issued)) * MOST_OF_LIFETIME:
                return None
            late.append(left < enough)
            tokens.append(
                SealedTokens(
                    one.connection_id, int(one.tokens_generation), place.environment, one.sealed
                )
            )
        return GoodOnes(tokens, tuple(late))

    def unnoticed_of(self, connection_ids: Sequence[str]) -> bool:
        """Is it some time since it was noted that the key, or one of these, is in use?"""
        unnoticed = [one.connection_id for one in self.stands if one.noticed == NOWHERE]
        return self.key_unnoticed or not set(unnoticed).isdisjoint(connection_ids)


look: Final = Query("batches", "look", LookRow, package="broker")


def by_place(rows: Sequence[LookRow], count: int) -> list[LookRow | None]:
    """The answers in the order of the questions; ``None`` where a question found nothing."""
    answers: list[LookRow | None] = [None] * count
    for row in rows:
        answers[row.place - 1] = row
    return answers


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
