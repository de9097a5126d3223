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
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Question(NamedTuple):
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


class Lives(NamedTuple):
    """How the connections stand: columns in the order of the places."""

    ids: Sequence[str]
    generations: Sequence[str]
    states: Sequence[str]
    noticed: Sequence[str]
    issued: Sequence[str]
    ends: Sequence[str]


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
    def stands(self) -> Lives:
        """How the connections stand."""
        words = self.lives.split(" ")
        ids = self.connection_ids.split(" ") if self.connection_ids else []
        names = words[::WORDS]
        columns = [words[number::WORDS] for number in range(1, WORDS)]
        if names != ids:
            order = [names.index(one) for one in ids]
            columns = [[column[place] for place in order] for column in columns]
        return Lives(ids, *columns)

    @cached_property
    def sealed(self) -> dict[str, tuple[int, bytes]]:
        """By connection the generation of its tokens, and these."""
        words = self.token_ids.split(" ")
        numbers = map(int, words[1::2])
        return dict(zip(words[::2], zip(numbers, self.tokens, strict=True), strict=False))

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
            connection_ids=list(self.stands.ids),
            integrations=[one.integration for one in places],
            environments=[one.environment for one in places],
            states=list(self.stands.states),
        )

    def tokens_of(self, connection_id: str) -> Settled | None:
        """What one connection holds; ``None`` unless that is good as it is."""
        stands = self.stands
        number = stands.ids.index(connection_id)
        held, issued, ends = (
            self.sealed.get(connection_id),
            stands.issued[number],
            stands.ends[number],
        )
        if stands.states[number] != "active" or held is None or issued == NOWHERE:
            return None
        place = places_from(self.shape)[number]
        return Settled(
            connection_id=connection_id,
            integration=place.integration,
            environment=place.environment,
            provider=place.provider,
            scopes=place.scopes,
            generation=int(stands.generations[number]),
            issued_at=moment(int(issued)),
            access_ends=None if ends == NOWHERE else moment(int(ends)),
            tokens_generation=held[0],
            sealed=held[1],
        )

    def good_ones(self, numbers: Sequence[int], min_ttl: int) -> GoodOnes | None:
        """The tokens of these connections, if all can be handed out as they are: what
        ``Settled.lasts`` says, in whole microseconds.
        """
        stands, sealed, places = self.stands, self.sealed, places_from(self.shape)
        tokens, late = [], []
        for number in numbers:
            connection_id, issued, ends = (
                stands.ids[number],
                stands.issued[number],
                stands.ends[number],
            )
            held = sealed.get(connection_id)
            if held is None or issued == NOWHERE:
                return None
            is_late = False
            if ends != NOWHERE:
                left = int(ends) - self.now
                is_late = left < min_ttl * SECOND
                if (
                    left <= min_ttl * SECOND
                    and left <= (int(ends) - int(issued)) * MOST_OF_LIFETIME
                ):
                    return None
            tokens.append(SealedTokens(connection_id, held[0], places[number].environment, held[1]))
            late.append(is_late)
        return GoodOnes(tokens, tuple(late))

    def is_unnoticed(self, numbers: Sequence[int]) -> bool:
        """Is it some time since it was noted that the key, or one of these, is in use?"""
        noticed = self.stands.noticed
        return self.key_unnoticed or NOWHERE in [noticed[number] for number in numbers]

    def unnoticed_of(self, used: Sequence[Settled]) -> bool:
        """Is it some time since it was noted that the key, or one of these, is in use?"""
        stands = self.stands
        return self.key_unnoticed or any(
            stands.noticed[stands.ids.index(one.connection_id)] == NOWHERE for one in used
        )


look: Final = Query("batches", "look", LookRow, package="broker")


def by_place(rows: Sequence[LookRow], count: int) -> list[LookRow | None]:
    """The answers in the order of the questions; ``None`` where a question found nothing."""
    answers: list[LookRow | None] = [None] * count
    for row in rows:
        answers[row.place - 1] = row
    return answers


def moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


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
