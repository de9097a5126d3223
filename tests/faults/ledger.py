"""Writers that remember what they were told: what was answered is there in the end, and once."""

from faults.load import Answer, Load, Wire
from support.process import Replica


class Ledger:
    """Writers that remember what they were told, to compare with what is there in the end."""

    def __init__(self) -> None:
        self.users: dict[str, int] = {}
        self.keys: set[str] = set()
        self.unclean: list[Answer] = []

    def writer(self, number: int, load: Load, wire: Wire) -> None:
        """Write a user, again and again, each time with the next value."""
        value = 0

        async def work(wire: Wire) -> Answer:
            nonlocal value
            value += 1
            body = {"attributes": {"value": value}}
            answer = await wire.call("PUT", f"/v1/users/user{number}", body)
            if self._clean(answer).ok:
                self.users[f"user{number}"] = value
            return answer

        load.add(wire, work, pause=0.01)

    def maker(self, number: int, load: Load, wire: Wire) -> None:
        """Make keys; each is asked for with one Idempotency-Key until it is told to be there."""
        count = 0

        async def work(wire: Wire) -> Answer:
            nonlocal count
            name = f"key{number}-{count}"
            body = {"name": name, "scopes": ["mint"]}
            answer = await wire.call("POST", "/v1/keys", body, Idempotency_Key=name)
            if self._clean(answer).ok:
                self.keys.add(name)
                count += 1
            return answer

        load.add(wire, work, pause=0.02)

    def _clean(self, answer: Answer) -> Answer:
        in_progress = answer.status == 409 and answer.json["code"] == "idempotency_in_progress"
        if not (answer.ok or answer.is_clean_refusal or in_progress):
            self.unclean.append(answer)
        return answer

    async def compare(self, wire: Wire) -> None:
        """Everything that was told to be written is there, and nothing twice."""
        for user, value in self.users.items():
            found = (await wire.call("GET", f"/v1/users/{user}")).json["attributes"]["value"]
            assert found >= value, "a later write whose answer was lost may have won, never less"
        names = []
        cursor = ""
        for _ in range(1000):
            page = (await wire.call("GET", f"/v1/keys?limit=100{cursor}")).json
            names += [one["name"] for one in page["data"] if one["name"].startswith("key")]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert len(names) == len(set(names)), "no idempotent request was done twice"
        assert self.keys <= set(names), "no key that was answered is lost"


def full_load(ledger: Ledger, replica: Replica, key: str) -> Load:
    load = Load()
    for number in range(6):
        ledger.writer(number, load, Wire(replica.port, key))
    for number in range(6):
        ledger.maker(number, load, Wire(replica.port, key))
    return load


def assert_bounded(answers: list[Answer], seconds: float) -> None:
    slowest = max(answers, key=lambda one: one.ended - one.begun)
    assert slowest.ended - slowest.begun < seconds, f"status {slowest.status}"
