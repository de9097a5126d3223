"""What a mint looks like for all users of one kind: worked out once, the usual way, with marks.

* A *course* follows from the key's rights, the agent's profile, what is asked for and the shape of
  a user's connections: which of them count, and what is made of it. A *pattern* follows from that
  and from the names of what was opened: the answer and the promise, with gaps for the values.
* A pattern is what ``Minting`` itself makes of a user who is nothing but marks, cut at the marks.
  That is done twice, with other marks: only where the two agree on everything between the gaps does
  nothing depend on the user but a value in its place.
* There is none where more than that has to be known: a header that is not made of the token alone,
  an environment variable, a person's own words under a secret's name. That goes the usual way.
* No pattern holds a value of anybody, and none serves two workspaces.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from broker.conversation import (
    Delivery,
    Minted,
    Wanted,
    chosen_delivery,
    environment_of,
    is_asked_for,
    min_ttl_of,
)
from broker.conversations import NewConversation, Times, packed
from broker.delivery import Issued, worded
from broker.mint import Minting
from broker.mint.looking import LookRow, Place, moment, places_from
from broker.mint.scenes import Found, Scene, promised
from broker.mint.stencils import Marks, Stencil
from broker.profile import Profile, Runtime, is_secret
from broker.variables import Authorization, Grant, Literally, Plan, Token
from vault.errors import VaultError
from vault.model import Caller
from vault.model import Profile as UserProfile
from vault.oauth.app import TokenSet
from vault.secret import Secret
from vault.vault import Vault
from vault.vault.refreshing import Fresh
from vault.vault.surveys import Connected, Opened, Survey, counting

MAX_COURSES: Final = 4_000
MAX_PATTERNS: Final = 1_000  # of one course; whoever comes later goes the usual way
MAX_BYTES: Final = 32 * 2**20  # of all patterns
WORTH: int = 3  # a pattern is worth its making for so many users of a kind: it costs a millisecond

# An answer as its route sends it.
Written = Callable[[Minted], bytes]

json: Final = msgspec.json.Encoder().encode


class Told(Struct, frozen=True):
    """Of what was opened and asked for, all that decides how the answer looks."""

    named: bool
    attributes: tuple[str, ...]
    extras: tuple[tuple[str, ...], ...]  # of each connection
    late: tuple[bool, ...]  # and whether it lasts less long than was asked for
    given: bool
    clients: tuple[str, ...]  # those of the profile's own variables that the caller gives


class Pattern(Struct, frozen=True):
    """``reached``: which of the opened connections the plan draws upon."""

    answer: Stencil
    kept: Stencil
    plan: Plan
    reached: tuple[int, ...]


class Course(Struct, frozen=True):
    """``asked``: the connections that are opened, by their place in a row; ``takes_all``: that is
    each of them, in the order of the row.

    ``clients``: the variables of the profile that a caller may give.
    """

    environment: str
    runtime: Runtime
    delivery: Delivery
    looking: bool
    min_ttl: int
    profile: Profile | None
    places: tuple[Place, ...]
    environments: tuple[str, ...]  # of the connections
    asked: tuple[int, ...]
    takes_all: bool
    clients: frozenset[str]
    met: dict[Told, int]
    patterns: dict[Told, Pattern | None]


class Patterns:
    """Courses and patterns that are remembered."""

    def __init__(self, vault: Vault, minting: Minting) -> None:
        self._vault = vault
        self._minting = minting
        # With the profile that each was made from, so that no other one can have its place.
        self._courses: OrderedDict[Hashable, tuple[Profile | None, Course | None]] = OrderedDict()
        self._bytes = 0

    async def course(
        self,
        caller: Caller,
        wanted: Wanted,
        row: LookRow,
        states: tuple[str, ...],
        profile: Profile | None,
    ) -> Course | None:
        """What comes for such a user; ``states``: of the connections."""
        key = (
            row.workspace_id,
            row.rights,
            row.environment,
            row.has_upstream,
            row.shape,
            states,
            id(profile),
            wanted.environment,
            wanted.agent_id,
            wanted.runtime,
            wanted.channel,
            wanted.delivery,
            wanted.branch_id,
            wanted.integrations,
            wanted.min_ttl,
            wanted.on_missing,
            wanted.armed,
        )
        known = self._courses.get(key)
        if known is not None and known[0] is profile:
            self._courses.move_to_end(key)
            return known[1]
        course = await self._begun(caller, wanted, row, states, profile)
        self._courses[key] = profile, course
        if len(self._courses) > MAX_COURSES:
            self._courses.popitem(last=False)
        return course

    async def _begun(
        self,
        caller: Caller,
        wanted: Wanted,
        row: LookRow,
        states: tuple[str, ...],
        profile: Profile | None,
    ) -> Course | None:
        environment = environment_of(caller, wanted.environment)
        runtime, delivery = chosen_delivery(wanted, profile)
        ours = row.is_ours_alone(environment, runtime, delivery, profile)
        if not ours or not _is_plain(profile):
            return None
        places = places_from(row.shape)
        found = counting(
            [
                Connected(
                    connection_id=str(number),
                    integration=place.integration,
                    environment=place.environment,
                    pending=states[number] == "pending",
                )
                for number, place in enumerate(places)
            ],
            environment,
        )
        asked = tuple(
            int(one.connection_id)
            for one in found.values()
            if is_asked_for(one.integration, profile, wanted)
        )
        for number in asked:
            bare = await self._vault.has_bare_header(places[number].provider)
            if not bare or states[number] != "active":
                return None
        variables = profile.variables.items() if profile else ()
        return Course(
            environment=environment,
            runtime=runtime,
            delivery=delivery,
            looking=delivery in ("relay", "handle") or not wanted.armed,
            min_ttl=min_ttl_of(wanted, profile),
            profile=profile,
            places=tuple(places[number] for number in asked),
            environments=tuple(places[number].environment for number in asked),
            asked=asked,
            takes_all=asked == tuple(range(len(places))),
            clients=frozenset(name for name, one in variables if one.source == "client"),
            met={},
            patterns={},
        )

    async def pattern(
        self,
        course: Course,
        caller: Caller,
        wanted: Wanted,
        opened: Opened,
        told: Told,
        written: Written,
    ) -> Pattern | None:
        """How the answer looks for whoever has these names; ``None`` also for the first of them."""
        if told in course.patterns or not _is_worth_it(course, told):
            return course.patterns.get(told)
        cutting = _Cutting(self._minting, course, caller, wanted, opened, told, written)
        try:
            made, again = await cutting.pattern(), await cutting.pattern()
        except VaultError:
            made = again = None  # the usual way says why
        if made and again and not (made.answer.is_as(again.answer) and made.kept.is_as(again.kept)):
            made = None
        course.patterns[told] = made
        self._count(made)
        return made

    def _count(self, made: Pattern | None) -> None:
        """Begin anew where they have become too many bytes."""
        self._bytes += made.answer.size + made.kept.size if made else 0
        if self._bytes > MAX_BYTES:
            self._courses.clear()
            self._bytes = 0


class _Drawn(Struct, frozen=True):
    """One connection that is nothing but marks, and how they stand in an answer."""

    fresh: Fresh
    gaps: tuple[bytes, bytes, bytes, bytes]
    extras: list[bytes]

    @classmethod
    def of(cls, marks: Marks, place: Place, extras: tuple[str, ...], *, late: bool) -> "_Drawn":
        token, generation, expires_in = marks.text(), marks.number(), marks.number()
        more = {name: marks.text() for name in extras}
        expires_at = marks.moment()
        fresh = Fresh(
            connection_id=marks.text(),
            integration=place.integration,
            provider=place.provider,
            environment=place.environment,
            tokens=TokenSet(access_token=Secret(token), obtained_at=expires_at, extras=more),
            extras=more,
            generation=generation,
            expires_at=expires_at,
            expires_in=expires_in,
            refresh_required=late,
            scopes=None if place.scopes is None else tuple(place.scopes),
        )
        gaps = (token.encode(), json(generation), json(expires_at), json(expires_in))
        return cls(fresh, gaps, [one.encode() for one in more.values()])


class _Cutting(Struct, frozen=True):
    """One pattern that is being made."""

    minting: Minting
    course: Course
    caller: Caller
    wanted: Wanted
    opened: Opened
    told: Told
    written: Written

    async def pattern(self) -> Pattern | None:
        """Mint for marks, and cut what comes of it."""
        course, told, marks = self.course, self.told, Marks()
        drawn = [
            _Drawn.of(marks, place, extras, late=late)
            for place, extras, late in zip(course.places, told.extras, told.late, strict=True)
        ]
        given = {marks.text(): 0, **dict.fromkeys(told.clients, 0)} if told.given else {}
        person = UserProfile(
            name=marks.text() if told.named else None,
            attributes={name: marks.text() for name in told.attributes},
        )
        scene = self._scene(marks, person, given, [one.fresh for one in drawn])
        fresh = {one.fresh.integration: one.fresh for one in drawn}
        if course.looking:
            fresh = {name: replace(one, tokens=None) for name, one in fresh.items()}
        found = self.minting.planned(scene, fresh, {})
        if not _is_verbatim(found.plan):
            return None
        times = Times(marks.moment(), marks.moment(), marks.moment())
        issued: list[Issued] = []

        async def write(_: NewConversation, one: Issued) -> Times:
            issued.append(one)
            return times

        answer = self.written(await self.minting.made(scene, found, write))
        gaps = [
            *(scene.itself.actor_id.encode(), scene.wanted.user_id.encode()),
            *(json(times.start_by), json(times.expires_at), *worded(issued[0])),
            *(block(given), json(person.name) if told.named else b""),
            *map(json, person.attributes.values()),
            *(gap for column in zip(*[one.gaps for one in drawn], strict=True) for gap in column),
            *(gap for one in drawn for gap in one.extras),
        ]
        ids = [one.fresh.connection_id for one in drawn]
        return Pattern(
            answer=Stencil(answer, gaps),
            kept=self._kept(scene, found, ids),
            plan=found.plan,
            reached=tuple(ids.index(one) for one in found.plan.connections.values()),
        )

    def _scene(
        self, marks: Marks, person: UserProfile, given: Mapping[str, int], every: list[Fresh]
    ) -> Scene:
        user_id = marks.text()
        survey = Survey(
            user_id=user_id,
            profile=person,
            user_ref="",
            owner=self.opened.owner,
            opener=self.opened.opener,
            now=moment(0),
            connections={
                one.integration: Connected(
                    connection_id=one.connection_id,
                    integration=one.integration,
                    environment=one.environment,
                    pending=False,
                )
                for one in every
            },
        )
        return self.minting.scene(
            self.caller,
            replace(self.wanted, user_id=user_id, dynamic_variables=given),
            marks.text(),
            self.course.environment,
            self.course.profile,
            survey,
            {},
        )

    def _kept(self, scene: Scene, found: Found, ids: list[str]) -> Stencil:
        given = packed(scene.wanted.dynamic_variables) if self.told.given else b""
        return Stencil(packed(promised(scene, found)), [*(one.encode() for one in ids), given])


def block(given: Mapping[str, object]) -> bytes:
    """A caller's variables as they stand in an answer, before the others."""
    return json(given)[1:-1] + b"," if given else b""


def _is_worth_it(course: Course, told: Told) -> bool:
    """Have so many come who look like this?"""
    if told not in course.met and len(course.met) >= MAX_PATTERNS:
        return False
    met = course.met[told] = course.met.get(told, 0) + 1
    return met >= WORTH


def _is_verbatim(plan: Plan) -> bool:
    """Does nothing have to be looked up for its values, or looked at before they are put in?"""
    secrets = [type(source) for _, _, source, secret in plan.layout().rows if secret]
    return not plan.labels() and set(secrets) <= {Token, Authorization, Grant, Literally}


def _is_plain(profile: Profile | None) -> bool:
    """The same of what a profile says, before anything is opened in vain."""
    for name, one in profile.variables.items() if profile else ():
        drawn = one.source == "connection" and one.field in ("token", "authorization")
        if one.source == "environment" or (is_secret(name) and one.source and not drawn):
            return False
    return True
