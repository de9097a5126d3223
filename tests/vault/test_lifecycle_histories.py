"""Histories that nobody thought of: workers that crash, sleep and come back, answers out of order,
a provider that takes a replayed token for theft, and at the end the question who lost what.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import Struct

from vault.lifecycle import takeover
from vault.lifecycle.events import (
    Answered,
    AnyEvent,
    Claimed,
    Connected,
    Failed,
    Released,
)
from vault.lifecycle.intents import (
    AnyIntent,
    Call,
    GiveBack,
    KeepOrphan,
    Save,
)
from vault.lifecycle.life import GONE, NEW, Life
from vault.lifecycle.machine import replay, step
from vault.lifecycle.terms import Terms
from vault.providers.derived import Rotation

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
CALL: Final = timedelta(seconds=75)  # vault.oauth.TIMEOUTS.total
GRACE: Final = timedelta(seconds=30)
WORKERS: Final = 3
Token = tuple[int, int]  # of which consent, and which one of it


class Provider:
    """As strict as they come: only the newest pair is known, and any other token ends it all."""

    def __init__(self, rotation: Rotation) -> None:
        self.rotation = rotation
        self.current: dict[int, int] = {}
        self.previous: dict[int, tuple[int, datetime]] = {}
        self.ended: set[int] = set()
        self.replays: list[Token] = []

    def consent(self) -> Token:
        grant = len(self.current)
        self.current[grant] = 0
        return grant, 0

    def accepts(self, token: Token, now: datetime) -> bool:
        grant, number = token
        if grant in self.ended:
            return False
        if self.rotation in ("none", "stays_valid") or number == self.current[grant]:
            return True
        before, until = self.previous.get(grant, (-1, START))
        return self.rotation == "grace" and number == before and now < until

    def refresh(self, token: Token, now: datetime) -> Token | None:
        grant, number = token
        if not self.accepts(token, now):
            if grant not in self.ended:
                self.replays.append(token)
            self.ended.add(grant)
            return None
        if self.rotation == "none":
            return token
        if self.rotation == "grace" and number == self.current[grant]:
            self.previous[grant] = (number, now + GRACE)
        self.current[grant] += 1
        return grant, self.current[grant]


class Job(Struct):
    """One worker's call, from its claim to its end."""

    fence: int
    token: Token
    claimed_at: datetime
    sent_at: datetime | None = None
    arrives_at: datetime = START
    arrived: bool = False
    answer: Token | None = None
    lost: bool = False


class Worker(Struct):
    owner: str
    alive: bool = True
    asleep: bool = False
    locked: bool = True  # holds its liveness lock
    job: Job | None = None


class Histories(RuleBasedStateMachine):
    """One connection, three workers, one provider, and a clock that all of them share."""

    rotations: tuple[Rotation, ...] = ("none", "stays_valid", "grace", "strict")
    max_faults = 3

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.life: Life = NEW
        self.events: list[AnyEvent] = []
        self.journal: dict[int, Token] = {}
        self.unsaved: list[int] = []
        self.stored: dict[int, Token] = {}
        self.in_flight: list[Job] = []
        self.fences: set[int] = set()
        self.given_back: set[int] = set()
        self.dead_words = 0
        self.faults = 0
        self.owners = WORKERS
        self.database_started_at = START - timedelta(days=1)
        self.workers = [Worker(owner=f"worker-{number}") for number in range(WORKERS)]
        self.taken: dict[Token, int] = {}
        self.person_left = False

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        rotation = data.draw(st.sampled_from(self.rotations))
        grace = GRACE if rotation == "grace" else timedelta()
        self.terms = Terms(rotation=rotation, grace=grace)
        self.provider = Provider(rotation)
        self.connect()

    # What happens

    @rule(seconds=st.sampled_from([0.1, 0.7, 1.0, 2.5, 10.0, 40.0, 61.0, 95.0, 1000.0]))
    def wait(self, seconds: float) -> None:
        self.pass_time(timedelta(seconds=seconds))

    @rule(number=st.integers(0, WORKERS - 1))
    def claim(self, number: int) -> None:
        worker = self.workers[number]
        if not worker.alive or worker.asleep or worker.job is not None:
            return
        self.replay_journal()
        holder = self.life.claim.owner if self.life.claim else ""
        alive = any(one.owner == holder and one.locked for one in self.workers)
        intents = self.happens(
            Claimed(
                at=self.now,
                owner=worker.owner,
                attempt=f"try-{len(self.events)}",
                holder_alive=alive,
                holder_seen=alive,
                database_started_at=self.database_started_at,
            )
        )
        for call in intents:
            if isinstance(call, Call):
                token = self.stored[call.generation]
                worker.job = Job(fence=call.fence, token=token, claimed_at=self.now)

    @rule(number=st.integers(0, WORKERS - 1), travel=st.sampled_from([0.0, 0.5, 1.0]))
    def send(self, number: int, travel: float) -> None:
        worker = self.workers[number]
        job = worker.job
        if not worker.alive or worker.asleep or job is None or job.sent_at is not None:
            return
        if self.now - job.claimed_at > takeover.SEND_WITHIN:
            worker.job = None
            self.happens(Released(at=self.now, fence=job.fence))
            return
        job.sent_at = self.now
        job.arrives_at = self.now + takeover.TRAVEL * travel
        self.in_flight.append(job)

    @rule(number=st.integers(0, WORKERS - 1))
    def receive(self, number: int) -> None:
        worker = self.workers[number]
        job = worker.job
        if not worker.alive or worker.asleep or job is None or not job.arrived or job.lost:
            return
        worker.job = None
        if job.answer is None:
            self.dead_words += 1
            self.happens(Failed(at=self.now, fence=job.fence, outcome="dead", luck=0.5))
            return
        self.journal[job.fence] = job.answer
        self.unsaved.append(job.fence)

    @rule()
    def replay_journal(self) -> None:
        for fence in self.unsaved:
            self.happens(Answered(at=self.now, fence=fence))
        self.unsaved = []

    @rule(
        number=st.integers(0, WORKERS - 1),
        outcome=st.sampled_from(["not_sent", "throttled", "transient", "client"]),
    )
    def stumble(self, number: int, outcome: str) -> None:
        """The endpoint answers, or cannot be reached, without having looked at the token."""
        worker = self.workers[number]
        job = worker.job
        if not worker.alive or worker.asleep or job is None or job.sent_at is not None:
            return
        worker.job = None
        self.happens(
            Failed(at=self.now, fence=job.fence, outcome=outcome, luck=0.3)  # type: ignore[arg-type] # drawn from the very words
        )

    # Faults

    @precondition(lambda self: self.faults < self.max_faults)
    @rule(number=st.integers(0, WORKERS - 1))
    def crash(self, number: int) -> None:
        self.faults += 1
        self.owners += 1
        self.workers[number] = Worker(owner=f"worker-{self.owners}")

    @precondition(lambda self: self.faults < self.max_faults)
    @rule(number=st.integers(0, WORKERS - 1))
    def fall_asleep(self, number: int) -> None:
        self.faults += 1
        self.workers[number].asleep = True

    @rule(number=st.integers(0, WORKERS - 1))
    def wake_up(self, number: int) -> None:
        self.workers[number].asleep = False

    @precondition(lambda self: self.faults < self.max_faults)
    @rule()
    def restart_database(self) -> None:
        self.faults += 1
        self.database_started_at = self.now
        for worker in self.workers:
            worker.locked = False

    @rule(number=st.integers(0, WORKERS - 1))
    def lock_again(self, number: int) -> None:
        worker = self.workers[number]
        worker.locked = worker.locked or not worker.asleep

    @precondition(lambda self: self.faults < self.max_faults)
    @rule(number=st.integers(0, WORKERS - 1))
    def lose_the_answer(self, number: int) -> None:
        job = self.workers[number].job
        if job is not None and job.sent_at is not None:
            self.faults += 1
            job.lost = True

    @rule()
    def replay_everything(self) -> None:
        """A spool that was already worked off is worked off again."""
        for fence in list(self.journal):
            if fence not in self.unsaved:
                self.happens(Answered(at=self.now, fence=fence))

    # People

    @precondition(lambda self: not self.life.gone)
    @rule()
    def connect(self) -> None:
        self.happens(Connected(at=self.now))
        self.stored[self.life.generation] = self.provider.consent()
        self.person_left = False

    @precondition(lambda self: len(self.events) > 25)  # else most histories end at once
    @rule()
    def delete(self) -> None:
        """The row is gone; answers that are still under way find nothing."""
        self.life = GONE

    @precondition(lambda self: len(self.events) > 15)
    @rule()
    def leave_at_the_provider(self) -> None:
        self.provider.ended |= self.provider.current.keys()
        self.person_left = True

    # The world goes on

    def pass_time(self, span: timedelta) -> None:
        """Requests arrive a second later at the latest, and overtake one another."""
        end = self.now + span
        for job in sorted(self.in_flight, key=lambda one: one.arrives_at):
            if job.arrives_at <= end:
                self.in_flight.remove(job)
                self.arrive(job, max(self.now, job.arrives_at))
        self.now = end
        for worker in self.workers:
            held = worker.job
            if worker.asleep or held is None or self.now - held.claimed_at <= CALL:
                continue
            if held.arrived and not held.lost:
                self.receive(self.workers.index(worker))
                continue
            worker.job = None
            if held.sent_at is None:
                self.happens(Released(at=self.now, fence=held.fence))
            else:
                self.happens(Failed(at=self.now, fence=held.fence, outcome="ambiguous", luck=0.5))

    def arrive(self, job: Job, at: datetime) -> None:
        thefts = len(self.provider.replays)
        job.answer = self.provider.refresh(job.token, at)
        job.arrived = True
        if job.answer is not None:
            self.taken[job.token] = job.fence
        if len(self.provider.replays) > thefts and self.faults <= 1:
            self.check_replay(job.token)

    def happens(self, event: AnyEvent) -> tuple[AnyIntent, ...]:
        before = self.life
        after, intents = step(before, event, self.terms)
        assert step(before, event, self.terms) == (after, intents), "the same gives the same"
        self.events.append(event)
        self.life = after
        self.check_step(before, event, intents)
        for intent in intents:
            if isinstance(intent, Save):
                self.stored[intent.generation] = self.journal[intent.fence]
                self.dead_words = 0
            if isinstance(intent, GiveBack):
                self.given_back.add(intent.fence)
        return intents

    # What must never be

    def check_step(self, before: Life, event: AnyEvent, intents: tuple[AnyIntent, ...]) -> None:
        after = self.life
        saves = [one for one in intents if isinstance(one, Save)]
        calls = [one for one in intents if isinstance(one, Call)]
        connected = isinstance(event, Connected)
        assert after.generation == before.generation + len(saves) + connected
        assert after.fence == before.fence + len(calls) + connected
        assert after.saved >= before.saved
        assert len(saves) <= 1
        for call in calls:
            assert isinstance(event, Claimed)
            assert after.claim is not None
            assert after.claim.fence == call.fence
            assert call.fence not in self.fences
            assert call.generation == before.generation
            assert before.claim is None or self.may_replace(before, event)
            self.fences.add(call.fence)
        if before.gone:
            assert not saves
            assert not calls
            assert after.gone
        if after.verdict is not None and before.verdict is None:
            assert self.dead_words > 0, "only the provider's word ends a consent"
            assert before.suspicion is not None
            assert event.at - before.suspicion.since >= timedelta(seconds=60)
        if isinstance(event, Answered):
            self.check_answer(before, event, intents)

    def may_replace(self, before: Life, event: Claimed) -> bool:
        claim = before.claim
        assert claim is not None
        return event.at >= claim.until or not event.holder_alive

    def check_answer(self, before: Life, event: Answered, intents: tuple[AnyIntent, ...]) -> None:
        kept = [one for one in intents if isinstance(one, Save | KeepOrphan | GiveBack)]
        repeated = not before.gone and event.fence == before.saved
        assert len(kept) == (0 if repeated else 1), "no answer is dropped"

    def check_replay(self, token: Token) -> None:
        """A token was sent after it was used up, and cost the person's consent.

        No single fault does that, but one: the answer with its replacement is lost for good, and
        the provider's grace, if it has any, is over.
        """
        assert self.faults == 1
        assert self.database_started_at < START, "a restart of the database loses no answer"
        assert self.taken[token] not in self.journal
        for worker in self.workers:
            if worker.asleep and worker.job is not None and worker.job.token == token:
                patience = takeover.LEASE + takeover.ASLEEP
                assert self.now >= worker.job.claimed_at + patience, (
                    "it may wake up with the answer"
                )
        if self.terms.rotation == "grace":
            assert self.provider.previous[token[0]][0] == token[1]

    @invariant()
    def the_history_can_be_replayed(self) -> None:
        if len(self.events) % 20 == 0 and not self.life.gone:
            assert replay(self.events, getattr(self, "terms", Terms())) == self.life

    def teardown(self) -> None:
        """A time without faults; then whoever did not leave is connected."""
        if not hasattr(self, "provider"):
            return
        self.calm_down()
        excused = self.person_left or self.life.gone
        if self.terms.rotation in ("grace", "strict"):
            excused = excused or bool(self.provider.replays) or self.faults > 1
        if not excused:
            assert self.life.state == "active"
            assert self.provider.accepts(self.stored[self.life.generation], self.now)

    def calm_down(self) -> None:
        for worker in self.workers:
            worker.asleep = False
            worker.locked = True
        for _ in range(12):
            for number in range(WORKERS):
                self.receive(number)
            self.replay_journal()
            self.claim(0)
            self.send(0, 1.0)
            self.pass_time(timedelta(seconds=2))
            self.receive(0)
            self.replay_journal()
            if self.life.state in ("active", "needs_reauth", "revoked"):
                return
            self.pass_time(timedelta(seconds=1000))


class OneFault(Histories):
    max_faults = 1


class NoFault(Histories):
    max_faults = 0


@pytest.mark.parametrize("kind", [Histories, OneFault, NoFault])
def test_no_history_breaks_a_promise(kind: type[Histories]) -> None:
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=150,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
