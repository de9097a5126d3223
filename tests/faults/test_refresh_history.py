"""The checker sees what it is there to see: histories that were made up, most of them bad."""

from typing import Any

from msgspec.structs import replace
from support.refresh_history import NONE, Connected, Findings, Handed, Killed, Proof, Record, check

from broker.sandbox.history import Event, Kind, What

FAMILIES = {"conn": "f1", "other": "f2"}


class Story:
    """A run, told step by step. Each step takes a second."""

    def __init__(self) -> None:
        self.record = Record()
        self.events: list[Event] = []
        self.now = 0.0
        self._requests = 0
        for connection, family in FAMILIES.items():
            workspace = f"ws-{family}"
            self.record.connected.append(
                Connected(connection=connection, workspace=workspace, family=family)
            )
            self.record.proofs.append(Proof(connection=connection, lives=True))
            self._issued(family, f"{family}.1")

    def refreshed(self, of: str, to: str, family: str = "f1") -> None:
        """``f1.1`` buys ``f1.2``: refresh and access tokens are called the same."""
        self._requests += 1
        self._say("used", "refresh", f"r{of}", family=family)
        self._issued(family, to)

    def refused(self, of: str) -> None:
        """The refresh token was presented, and bought nothing."""
        self._requests += 1
        self._say("used", "refresh", f"r{of}", family="f1")

    def ended(self, *, why: str = "replay") -> None:
        self._say("ended", "", "", family="f1", reasons=(why,))

    def handed(self, mark: str, generation: int, connection: str = "conn", **more: Any) -> None:
        begun = self._tick()
        self.record.handed.append(
            Handed(
                **{
                    "connection": connection,
                    "workspace": f"ws-{FAMILIES[connection]}",
                    "begun": begun,
                    "ended": self._tick(),
                    "asked_at": begun,
                    "ends_at": begun + 10,
                    "mark": f"a{mark}",
                    "generation": generation,
                    **more,
                }
            )
        )

    def killed(self, *held: str) -> None:
        self.record.killed.append(Killed(at=self._tick(), held=frozenset(held)))

    def comes_to(self) -> Findings:
        return check(self.record, self.events)

    def _issued(self, family: str, name: str) -> None:
        self._say("issued", "access", f"a{name}", family=family, until=self.now + 20)
        self._say("issued", "refresh", f"r{name}", family=family)

    def _say(self, what: What, kind: Kind, token: str, **more: Any) -> None:
        event = Event(seq=len(self.events) + 1, at=self._tick(), what=what, kind=kind, token=token)
        self.events.append(replace(event, request=self._requests, **more))

    def _tick(self) -> float:
        self.now += 1
        return self.now


def faults(**some: int) -> dict[str, int]:
    return NONE | some


def test_an_ordinary_run_has_no_faults() -> None:
    story = Story()
    story.handed("f1.1", 1)
    story.refreshed("f1.1", "f1.2")
    story.handed("f1.2", 2)
    story.handed("f2.1", 1, connection="other")
    story.refreshed("f1.2", "f1.3")
    found = story.comes_to()
    assert found.faults == NONE
    assert (found.refreshes, found.handed) == (2, 3)


def test_a_consent_that_ended_for_a_replay_is_lost() -> None:
    story = Story()
    story.refused("f1.1")
    story.ended()
    assert story.comes_to().lost == ("conn",)


def test_a_consent_that_the_person_took_back_is_not_lost_for_that() -> None:
    story = Story()
    story.ended(why="withdrawn")
    assert story.comes_to().faults == NONE


def test_a_connection_that_does_not_refresh_any_more_is_lost() -> None:
    story = Story()
    story.record.proofs.append(Proof(connection="other", lives=False))
    assert story.comes_to().lost == ("other",)


def test_a_connection_of_which_nobody_proved_that_it_lives_is_lost() -> None:
    story = Story()
    story.record.proofs.clear()
    assert story.comes_to().lost == ("conn", "other")


def test_a_token_that_bought_twice_was_refreshed_twice() -> None:
    story = Story()
    story.refreshed("f1.1", "f1.2")
    story.refreshed("f1.1", "f1.3")
    assert story.comes_to().faults == faults(double=1)


def test_a_token_that_bought_and_was_refused_then_counts_too() -> None:
    story = Story()
    story.refreshed("f1.1", "f1.2")
    story.refused("f1.1")
    assert story.comes_to().faults == faults(double=1)


def test_a_token_that_bought_nothing_may_be_presented_again() -> None:
    story = Story()
    story.refused("f1.1")
    story.refreshed("f1.1", "f1.2")
    assert story.comes_to().faults == NONE


def test_what_a_killed_process_had_in_hand_may_be_repeated_once() -> None:
    story = Story()
    story.refreshed("f1.1", "f1.2")
    story.killed("conn")
    story.refreshed("f1.1", "f1.3")
    assert story.comes_to().faults == NONE
    story.refreshed("f1.1", "f1.4")
    assert story.comes_to().faults == faults(double=1)


def test_a_kill_excuses_nothing_that_the_process_did_not_have_in_hand() -> None:
    story = Story()
    story.refreshed("f1.1", "f1.2")
    story.killed("other")
    story.refreshed("f1.1", "f1.3")
    assert story.comes_to().faults == faults(double=1)


def test_a_kill_before_the_first_use_excuses_nothing() -> None:
    story = Story()
    story.killed("conn")
    story.refreshed("f1.1", "f1.2")
    story.refreshed("f1.1", "f1.3")
    assert story.comes_to().faults == faults(double=1)


def test_a_token_past_its_end_is_stale() -> None:
    story = Story()
    story.handed("f1.1", 1, ends_at=story.now)
    assert story.comes_to().faults == faults(stale=1)


def test_a_token_that_the_provider_does_not_take_any_more_is_stale() -> None:
    story = Story()
    story.now += 30
    story.handed("f1.1", 1, ends_at=None)
    assert story.comes_to().faults == faults(stale=1)


def test_a_token_of_an_ended_consent_is_stale_unless_the_answer_warns() -> None:
    story = Story()
    story.ended(why="withdrawn")
    story.handed("f1.1", 1, degraded=True)
    assert story.comes_to().faults == NONE
    story.handed("f1.1", 1)
    assert story.comes_to().faults == faults(stale=1)


def test_nobody_is_given_an_older_token_than_somebody_else_had_already() -> None:
    story = Story()
    story.refreshed("f1.1", "f1.2")
    story.handed("f1.2", 2)
    story.handed("f1.1", 1)
    assert story.comes_to().faults == faults(stale=1)


def test_of_two_who_ask_at_once_one_may_be_given_the_older() -> None:
    story = Story()
    story.refreshed("f1.1", "f1.2")
    story.handed("f1.2", 2)
    story.handed("f1.1", 1, begun=story.record.handed[0].begun)
    assert story.comes_to().faults == NONE


def test_another_connections_token_is_wrong() -> None:
    story = Story()
    story.handed("f2.1", 1)
    assert story.comes_to().faults == faults(wrong=1)


def test_a_token_for_another_workspaces_key_is_wrong() -> None:
    story = Story()
    story.handed("f1.1", 1, workspace="ws-f2")
    assert story.comes_to().faults == faults(wrong=1)


def test_a_token_that_the_provider_never_gave_is_wrong() -> None:
    story = Story()
    story.handed("made up", 1)
    assert story.comes_to().faults == faults(wrong=1)
    story.events.append(Event(seq=99, at=99, what="unknown", kind="refresh", token="r?"))
    assert story.comes_to().faults == faults(wrong=2)
