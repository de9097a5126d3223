"""What the clocks, the schedule and the endpoint decide, by example; histories have a file of
their own.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from vault.lifecycle import breaker, endpoint, rate, retries, standing, takeover
from vault.lifecycle.backoff import LONGEST, pause
from vault.lifecycle.clocks import Clocks, clocks
from vault.lifecycle.events import Claimed, Connected, Failed
from vault.lifecycle.handout import Ask, hand_out, wanted_ttl
from vault.lifecycle.intents import Announce, Call, NotNow
from vault.lifecycle.life import NEW, Claim, Life
from vault.lifecycle.machine import replay, step
from vault.lifecycle.schedule import ASLEEP_LOOK, Use, is_expiring, next_look, notice_due
from vault.lifecycle.terms import Terms, terms_of
from vault.lifecycle.turns import Candidate, in_turn
from vault.providers import Catalogue

NOW: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = (
    timedelta(seconds=1),
    timedelta(minutes=1),
    timedelta(hours=1),
    timedelta(days=1),
)
LEASE: Final = takeover.LEASE
STRICT: Final = Terms()
GRACEFUL: Final = Terms(rotation="grace", grace=30 * SECOND)
KILLING: Final = Terms(kills_old_access=True)
ALIVE: Final = replay([Connected(at=NOW)], STRICT)


def times(**more: Any) -> Clocks:
    given: dict[str, Any] = {"issued_at": NOW, "consented_at": NOW, "access_ends": NOW + HOUR}
    return Clocks(**(given | more))


def claimed(life: Life, at: datetime, terms: Terms = STRICT, **more: Any) -> Life:
    return step(life, Claimed(at=at, owner="me", attempt="try", **more), terms).life


def failed(life: Life, at: datetime, outcome: Any, terms: Terms = STRICT, **more: Any) -> Life:
    event = Failed(at=at, fence=life.fence, outcome=outcome, luck=0.5, **more)
    return step(life, event, terms).life


# The machine, where a sentence is better than a history


def test_whoever_comes_second_is_told_when_to_come_back() -> None:
    life = claimed(ALIVE, NOW)
    [told] = step(life, Claimed(at=NOW, owner="other", attempt="x"), STRICT).intents
    assert told == NotNow(why="busy", until=NOW + takeover.LEASE)


def test_the_third_failure_in_a_row_is_news_and_the_first_is_not() -> None:
    life, at, heard = ALIVE, NOW, []
    for _ in range(3):
        at += HOUR
        life = claimed(life, at)
        event = Failed(at=at, fence=life.fence, outcome="transient", luck=0.5)
        life, intents = step(life, event, STRICT)
        heard.append([one.news for one in intents if isinstance(one, Announce)])
    assert heard == [[], [], ["degraded"]]


def test_a_refused_client_condemns_no_connection() -> None:
    life = failed(claimed(ALIVE, NOW), NOW, "client")
    assert life.state == "active"
    assert life.next_try_at == NOW + MINUTE


def test_a_dead_grant_is_believed_at_the_second_look_and_not_before() -> None:
    life = failed(claimed(ALIVE, NOW), NOW, "dead")
    assert life.state == "suspect"
    early = claimed(life, NOW + 59 * SECOND)
    assert early.state == "suspect"
    late = step(life, Claimed(at=NOW + 76 * SECOND, owner="me", attempt="x"), STRICT)
    assert late.life.state == "needs_reauth"
    assert not [one for one in late.intents if isinstance(one, Call)], "it is not sent again"


def test_a_token_that_may_be_sent_again_is_sent_again_before_a_verdict() -> None:
    forever = Terms(rotation="none")
    life = failed(claimed(ALIVE, NOW, forever), NOW, "dead", forever)
    again = claimed(life, NOW + 76 * SECOND, forever)
    assert again.state == "refreshing"
    assert failed(again, NOW + 77 * SECOND, "dead", forever).state == "needs_reauth"


@pytest.mark.parametrize(
    ("terms", "dead", "waits"),
    [
        (Terms(rotation="none"), True, timedelta()),
        (GRACEFUL, True, takeover.SETTLE),
        (GRACEFUL, False, takeover.SETTLE),
        (STRICT, True, takeover.SETTLE),
        (STRICT, False, takeover.LEASE - SECOND),
    ],
)
def test_when_a_token_may_be_sent_again(terms: Terms, *, dead: bool, waits: timedelta) -> None:
    claim = Claim(fence=1, generation=1, owner="x", attempt="y", at=NOW, until=NOW + takeover.LEASE)
    at = takeover.repeat_at(
        claim, NOW, terms, now=NOW + SECOND, dead=dead, database_started_at=NOW - DAY
    )
    assert at == NOW + SECOND + waits


def test_after_a_restart_of_the_database_nobody_is_believed_dead() -> None:
    claim = Claim(fence=1, generation=1, owner="x", attempt="y", at=NOW, until=NOW + takeover.LEASE)
    at = takeover.repeat_at(
        claim, NOW, STRICT, now=NOW + SECOND, dead=True, database_started_at=NOW
    )
    assert at == NOW + takeover.LEASE


@pytest.mark.parametrize(
    ("terms", "holder", "taken_over"),
    [
        (STRICT, {"holder_seen": True}, LEASE + takeover.ASLEEP),
        (STRICT, {"holder_seen": False}, LEASE),
        (GRACEFUL, {"holder_seen": True}, LEASE + takeover.ASLEEP),
        (Terms(rotation="grace", grace=HOUR), {"holder_seen": True}, LEASE),
        (Terms(rotation="none"), {"holder_seen": True}, LEASE),
    ],
)
def test_who_sleeps_past_his_lease_keeps_what_cannot_be_repeated(
    terms: Terms, holder: dict[str, bool], taken_over: timedelta
) -> None:
    life = claimed(ALIVE, NOW, terms)
    almost = claimed(life, NOW + taken_over - SECOND, terms, **holder)
    assert almost.claim == life.claim
    assert claimed(life, NOW + taken_over, terms, **holder).claim != life.claim


# Clocks and schedule


def test_a_claim_whose_lease_has_ended_is_looked_at_now_and_again() -> None:
    life = claimed(ALIVE, NOW)
    for after, at in [(timedelta(), LEASE), (LEASE + SECOND, LEASE + SECOND + ASLEEP_LOOK)]:
        look = next_look(life, times(), STRICT, Use(), "eager", now=NOW + after, luck=0.5)
        assert look is not None
        assert look.at == NOW + at


def test_what_a_reply_says_of_the_refresh_token_is_the_consents_where_the_token_stays() -> None:
    given: dict[str, Any] = {
        "issued_at": NOW,
        "consented_at": NOW - DAY,
        "access_ends": NOW + HOUR,
        "refresh_ends": NOW + 30 * DAY,
    }
    assert clocks(Terms(rotation="none"), **given).consent_ends == NOW + 30 * DAY
    rotating = clocks(STRICT, **given)
    assert rotating.consent_ends is None
    assert rotating.idle_ends == NOW + 14 * DAY, "unknown, so sooner than it says"


def look(life: Life = ALIVE, terms: Terms = STRICT, **more: Any) -> Any:
    given: dict[str, Any] = {
        "clocks": times(),
        "use": Use(used_at=NOW),
        "policy": "active",
        "now": NOW,
        "luck": 0.0,
    }
    given |= more
    return next_look(
        life, given.pop("clocks"), terms, given.pop("use"), given.pop("policy"), **given
    )


def test_a_used_token_is_refreshed_ahead_of_its_end() -> None:
    assert look().at == NOW + HOUR - 5 * MINUTE
    assert look(luck=1.0).at == NOW + HOUR - 10 * MINUTE, "spread"
    assert look(use=Use(used_at=NOW, promise=20 * MINUTE)).at == NOW + 40 * MINUTE


def test_an_unused_token_is_left_and_its_refresh_token_kept_alive() -> None:
    idle = times(idle_ends=NOW + 9 * DAY)
    found = look(clocks=idle, use=Use(used_at=NOW - 2 * DAY))
    assert (found.why, found.at) == ("keep_alive", NOW + 3 * DAY)
    assert look(clocks=idle, use=Use(), policy="eager").at < NOW + HOUR
    assert look(clocks=idle, policy="lazy").why == "keep_alive"


def test_what_a_conversation_holds_is_not_killed_before_it_must() -> None:
    held = Use(used_at=NOW, hold_until=NOW + 2 * HOUR)
    assert look(terms=KILLING, use=held).at == NOW + HOUR - MINUTE
    assert look(use=held).at < NOW + HOUR - MINUTE, "others do not kill it"


def test_nobody_refreshes_what_is_the_platforms() -> None:
    assert look(clocks=times(renewable=False)) is None


def test_notices_come_once_each_and_none_for_what_is_short() -> None:
    long = times(consent_ends=NOW + 60 * DAY)
    assert notice_due(long, NOW + 45 * DAY, None) is None
    assert notice_due(long, NOW + 46 * DAY, None) == 14 * DAY
    assert notice_due(long, NOW + 47 * DAY, 14 * DAY) is None
    assert notice_due(long, NOW + 59 * DAY, 14 * DAY) == DAY
    assert not is_expiring(times(consent_ends=NOW + DAY), NOW)
    assert is_expiring(long, NOW + 50 * DAY)


# Handing out


def give(life: Life = ALIVE, terms: Terms = STRICT, at: datetime = NOW, **more: Any) -> str:
    ask = Ask(min_ttl=more.pop("min_ttl", 15 * MINUTE), **more)
    found = hand_out(life, times(), terms, ask, now=at)
    return f"{found.kind} else {found.otherwise}" if found.otherwise else found.kind


def test_what_is_handed_out_when() -> None:
    assert give() == "ready"
    assert give(at=NOW + 50 * MINUTE) == "wait else degraded"
    assert give(at=NOW + 2 * HOUR) == "wait else expired"
    assert give(rejected=True) == "wait else degraded"
    assert give(NEW) == "expired"
    waiting = replace(ALIVE, failures=1, next_try_at=NOW + DAY)
    assert give(waiting, at=NOW + 50 * MINUTE) == "degraded"
    assert give(waiting, at=NOW + 2 * HOUR) == "expired"


def test_a_token_that_another_conversation_holds_is_stale_and_not_killed() -> None:
    held: dict[str, Any] = {"at": NOW + 50 * MINUTE, "held_until": NOW + 2 * HOUR}
    assert give(terms=KILLING, **held) == "stale"
    assert give(terms=KILLING, **(held | {"at": NOW + 59.5 * MINUTE})) == "wait else degraded"
    assert give(terms=STRICT, **held) == "wait else degraded"


def test_nobody_is_promised_more_than_half_of_a_lifetime() -> None:
    assert wanted_ttl(times(), 8 * HOUR) == 30 * MINUTE


# Endpoints


def test_a_pause_doubles_within_its_bounds_and_is_never_sooner_than_asked() -> None:
    assert pause(1, 1.0) == SECOND
    assert pause(3, 1.0) == 4 * SECOND
    assert pause(99, 1.0) == LONGEST
    assert pause(1, 0.0) > timedelta()
    assert pause(1, 0.0, retry_after=17) == 17 * SECOND
    assert pause(1, 1.0, retry_after=17) > 17 * SECOND


def test_half_of_twenty_bad_calls_open_the_breaker_and_one_good_probe_closes_it() -> None:
    found = breaker.closed(NOW)
    for number in range(20):
        assert breaker.admit(found, NOW)[1] is None
        found = breaker.heard(found, NOW, sent_at=NOW, good=number % 2 == 0)
    assert breaker.admit(found, NOW)[1] == NOW + 5 * SECOND
    later = NOW + 6 * SECOND
    probing, until = breaker.admit(found, later)
    assert until is None
    assert breaker.admit(probing, later)[1] is not None, "one probe at a time"
    old = breaker.heard(probing, later, sent_at=NOW - SECOND, good=True)
    assert old.opened_at is not None, "an answer of before says nothing"
    assert breaker.heard(probing, later, sent_at=later, good=True).opened_at is None


def test_a_rate_is_halved_once_for_one_burst_of_refusals_and_rests_as_told() -> None:
    found = rate.begun(NOW)
    for _ in range(5):
        found = rate.throttled(found, NOW, sent_at=NOW - SECOND, retry_after=17)
    assert found.per_second == rate.START / 2
    assert rate.take(found, NOW + 16 * SECOND).granted == 0
    assert rate.take(found, NOW + 17 * SECOND).granted == 1


def test_retries_get_a_tenth_of_the_first_tries() -> None:
    found = retries.begun(NOW)
    for _ in range(10):
        found, allowed = retries.spend(found, NOW)
        assert allowed
    assert not retries.spend(found, NOW).allowed
    assert retries.spend(retries.earn(found, NOW, 10), NOW).allowed


def test_a_mass_of_dead_grants_holds_the_integration_and_one_good_answer_lifts_it() -> None:
    found, alert = standing.begun(NOW), None
    for _ in range(5):
        found, alert = standing.learn(found, "dead", NOW, sent_at=NOW)
    assert alert == "held"
    assert standing.admit(found, NOW)[1] is not None
    assert standing.learn(found, "fine", NOW + MINUTE, sent_at=NOW + MINUTE).alert == "resumed"


def test_a_refused_client_pauses_once_and_a_mended_one_goes_on() -> None:
    found, alert = standing.learn(standing.begun(NOW), "client", NOW, sent_at=NOW)
    assert alert == "paused"
    found, alert = standing.learn(found, "client", NOW + MINUTE, sent_at=NOW + MINUTE)
    assert alert is None
    assert standing.mended(found, NOW + HOUR).alert == "resumed"


def test_a_call_that_is_refused_room_costs_the_other_parts_nothing() -> None:
    found = endpoint.begun(NOW, ceiling=1.0)
    found = endpoint.admit(found, NOW).endpoint
    full = endpoint.admit(found, NOW, again=True)
    assert full.until is not None
    assert full.endpoint.retries == found.retries
    resting = endpoint.heard(found, NOW, sent_at=NOW, outcome="throttled", retry_after=17)
    until = endpoint.admit(resting, NOW + SECOND).until
    assert until == NOW + 17 * SECOND, "for everybody, not only for who was told"


def test_who_waits_comes_first_then_who_is_in_use_and_workspaces_take_turns() -> None:
    def one(workspace: str, number: int, **more: Any) -> Candidate:
        return Candidate(workspace=workspace, connection=f"{workspace}{number}", **more)

    crowd = [one("a", number) for number in range(5)]
    found = in_turn(
        [*crowd, one("b", 1), one("c", 1, used_at=NOW), one("d", 1, waiting=True)],
        5,
        now=NOW,
        flying={},
        of=100,
    )
    assert [each.connection for each in found] == ["d1", "c1", "a0", "b1", "a1"]


@pytest.mark.parametrize(
    ("others", "flying", "mine"),
    [
        (0, {}, 10),  # alone: half
        (1, {}, 5),  # with another that is due: a quarter
        (0, {"b": 1}, 5),  # or under way
        (0, {"b": 0}, 10),
        (1, {"a": 4}, 1),
        (1, {"a": 5}, 0),
    ],
)
def test_no_workspace_takes_all_of_the_room(others: int, flying: dict[str, int], mine: int) -> None:
    crowd = [Candidate(workspace="a", connection=f"a{number}") for number in range(30)]
    rest = [Candidate(workspace="b", connection=f"b{number}") for number in range(others)]
    found = in_turn([*crowd, *rest], 20, now=NOW, flying=flying, of=20)
    assert sum(one.workspace == "a" for one in found) == mine
    assert sum(one.workspace == "b" for one in found) == others


crowds = st.lists(
    st.builds(
        Candidate,
        workspace=st.just("a"),
        connection=st.integers(0, 1000).map(str),
        waiting=st.booleans(),
        used_at=st.sampled_from((None, NOW, NOW - DAY, NOW - 2 * DAY)),
        ends_at=st.sampled_from((None, NOW, NOW + HOUR, NOW - HOUR)),
    )
)


@given(crowds, st.integers(0, 12), st.integers(0, 12), st.integers(0, 30))
def test_a_workspace_alone_has_its_turns_as_among_others(
    crowd: list[Candidate], room: int, flying: int, of: int
) -> None:
    alone = in_turn(crowd, room, now=NOW, flying={"a": flying}, of=of)
    among_others = {"a": flying, "b": 1}
    assert alone == in_turn(crowd, room, now=NOW, flying=among_others, of=2 * of)


def test_every_provider_has_terms() -> None:
    catalogue = Catalogue()
    for provider in catalogue.all():
        if provider.status != "unsupported":
            found = terms_of(catalogue.get(provider.id))
            assert found.rotation != "grace" or found.grace
