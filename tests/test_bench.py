"""The benchmarks run, check what they count, and leave nothing; never how fast anything is."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from bench import load, processes, report, suite
from bench.baselines import ANSWER, HELLO, QUESTION
from bench.baselines.provider import tokens
from bench.refreshers import IN_FLIGHT, Settings
from bench.report import Bar, Column, Options, Outcome, Pair
from bench.suite import mint, token
from bench.world import world
from vault.bearer import generate
from vault.refreshing.room import ALONE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bench reads Linux's /proc")

ASKED = load.request("GET", "/x", expected=b"right")
REPOSITORY = Path(__file__).resolve().parents[1]


def bench_command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench", *words]


def quick_run(name: str, folder: Path) -> dict[str, Any]:
    """Run one benchmark as a user does; return what it wrote."""
    file = folder / "result.json"
    scratch = folder / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        bench_command(name, "--quick", "--rounds", "1", "--json", str(file)),
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "load average" in done.stdout, "no figure without its circumstances"
    assert list(scratch.iterdir()) == []
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_a_quick_run_of_http_measures_all_variants(tmp_path: Path) -> None:
    found = quick_run("http", tmp_path)
    http = found["benchmarks"]["http"]
    names = [one["name"] for one in http["variants"]]
    assert names[:2] == ["hello_raw", "hello_typed"]
    assert {"livez", "get_key", "put_user"} <= set(names)
    for variant in http["variants"]:
        assert len(variant["rounds"]) == 1
        assert variant["median"]["cpu_us"] > 0
    bases = {one["base"] for one in http["ratios"] if one["subject"] == "put_user"}
    assert bases == {"hello_raw", "hello_typed"}


def test_a_quick_run_of_crypto_measures_against_its_floor(tmp_path: Path) -> None:
    found = quick_run("crypto", tmp_path)
    assert found["format"] == 1
    assert found["command"].startswith("python -m bench crypto")
    ratios = found["benchmarks"]["crypto"]["ratios"]
    assert {one["subject"] for one in ratios} >= {"seal 1.5 kB", "open 1.5 kB"}
    assert all(one["min"] <= one["median"] <= one["max"] for one in ratios)


def test_the_circumstances_say_what_matters_and_no_path(tmp_path: Path) -> None:
    circumstances = quick_run("crypto", tmp_path)["circumstances"]
    assert circumstances["cores"] >= 1
    assert circumstances["fdatasync_us"] > 0
    assert circumstances["postgres"]["fsync"] == "on"
    assert "PGO" in circumstances["python"]
    text = json.dumps(circumstances)
    assert str(REPOSITORY) not in text
    assert str(tmp_path) not in text
    assert os.uname().nodename not in text


async def test_idle_tells_the_service_from_its_database() -> None:
    outcome = await suite.BENCHMARKS["idle"].run(Options(rounds=1, quick=True))
    [cold], [hello] = outcome.rounds["cold"], outcome.rounds["hello_typed"]
    assert cold["rss_mb"] > 0
    assert cold["postgres_rss_mb"] > 0
    assert "postgres_rss_mb" not in hello


async def test_refreshing_is_measured_against_the_call_alone_and_a_pattern_by_hand() -> None:
    outcome = await suite.BENCHMARKS["refresh"].run(Options(rounds=1, quick=True))
    for [one] in outcome.rounds.values():
        assert one["cpu_us"] == pytest.approx(one["worker_us"] + one["postgres_us"])
        assert one["core_percent"] > 0
    # The call alone is a part of a refresh, and stores nothing.
    assert outcome.rounds["http client, 0 ms"][0]["postgres_us"] == 0
    assert {one.base for one in outcome.pairs} >= {"http client, 200 ms", "keyturn, 0 ms"}


@pytest.mark.soak
async def test_leasing_is_measured_in_deployments_of_several_sizes() -> None:
    outcome = await suite.BENCHMARKS["growth-refresh"].run(Options(rounds=1, quick=True))
    assert len(outcome.rounds) == 2
    assert [one.subject for one in outcome.pairs] == ["5 thousand"]
    assert all(one["postgres_us"] > 0 for [one] in outcome.rounds.values())


async def test_bloat_counts_one_update_of_the_ciphertext_a_refresh() -> None:
    outcome = await suite.BENCHMARKS["bloat"].run(Options(rounds=1, quick=True))
    [after] = outcome.rounds["tokens after"]
    assert after["updates"] >= 3 * 150
    assert 0 < after["hot_percent"] <= 100
    assert after["heap_kb"] >= outcome.rounds["tokens before"][0]["heap_kb"]


async def test_handing_out_is_measured_against_hello_world_and_a_read_by_hand() -> None:
    outcome = await suite.BENCHMARKS["token"].run(Options(rounds=1, quick=True))
    assert set(outcome.rounds) == {"hello_raw", "hello_typed", "keyturn", "handwritten"}
    assert all(one["postgres_us"] > 0 for one in outcome.rounds["keyturn"])
    assert all(one["postgres_us"] > 0 for one in outcome.rounds["handwritten"])


async def test_the_read_by_hand_gives_the_same_answer_to_the_same_people() -> None:
    async with world(2, lasting=True) as made, token.servers(made) as both:
        name = made.settings.names[0]
        asked = [
            (made.key, name),
            (made.key, "conn_" + "0" * 26),
            (generate("api_key").reveal(), name),
        ]
        found = [[await answer(server.port, *one) for one in asked] for server in both]
    statuses = [[status for status, _ in answers] for answers in found]
    assert statuses == [[200, 404, 401], [200, 404, 401]]
    [ours, theirs] = [answers[0][1] for answers in found]
    assert theirs["access_token"].startswith(f"a.{name}.0.")
    assert abs(theirs.pop("expires_in") - ours["expires_in"]) <= 60
    assert theirs == {key: ours[key] for key in theirs}


async def answer(port: int, key: str, name: str) -> tuple[int, dict[str, Any]]:
    url = f"http://{load.HOST}:{port}/v1/connections/{name}/token"
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession() as session, session.post(url, headers=headers) as reply:
        found: dict[str, Any] = await reply.json(content_type=None)
        return reply.status, found


def test_the_call_alone_has_as_many_under_way_as_a_sweep() -> None:
    assert ALONE["due"] == IN_FLIGHT, "the floor has as many calls under way as we"


async def test_a_refresh_token_that_was_used_is_refused() -> None:
    form = b"grant_type=refresh_token&refresh_token=" + tokens("ada", 0).refresh_token.encode()
    again = load.request("POST", "/token", expected=b"a.ada.1.", body=form)
    async with processes.provider() as port:
        answers = await load.closed_loop(port, iter([again, again]), connections=1, seconds=60)
        assert (answers.right, answers.refused) == (1, 1)


async def test_a_worker_that_fails_ends_the_run() -> None:
    settings = msgspec.json.encode(Settings(token_url="", dsn="", fernet_key="", names=[]))
    with pytest.raises(processes.NotStarted):
        async with processes.worker("no such", {}, settings):
            pass


@pytest.mark.parametrize("name", ["hello_raw", "hello_typed"])
async def test_a_baseline_answers_as_documented(name: processes.Baseline) -> None:
    async with processes.baseline(name) as server:
        reader, writer = await asyncio.open_connection(load.HOST, server.port)
        writer.write(HELLO.wire)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(len(ANSWER)) == ANSWER
        writer.close()
        wrong = QUESTION.replace(b'"user_id"', b'"user"')
        refused = load.request("POST", "/hello", expected=b"", body=wrong)
        answers = await load.closed_loop(server.port, iter([refused]), connections=1, seconds=60)
        assert (answers.refused, answers.right) == (1, 0)


# The load generator


@contextlib.asynccontextmanager
async def answering(answer: Callable[[int], bytes], stall_at: int = -1) -> AsyncIterator[int]:
    """A server that gives the n-th request ``answer(n)``, and stands still before one of them."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                number, count = count, count + 1
                if number == stall_at:
                    await asyncio.sleep(STALL)
                given = answer(number)
                if not given:
                    break
                writer.write(given)
        writer.close()

    server = await asyncio.start_server(serve, load.HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


STALL = 0.4
RIGHT = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nright"


async def test_a_latency_counts_from_when_the_request_was_due() -> None:
    async with answering(lambda _: RIGHT, stall_at=20) as port:
        opened = await load.open_loop(port, repeat(ASKED), rate=200, seconds=0.6, connections=1)
    async with answering(lambda _: RIGHT, stall_at=20) as port:
        closed = await load.closed_loop(port, iter([ASKED] * 120), connections=1, seconds=60)
    assert opened.right == closed.right == 120
    # 80 requests fall due in a stall of 0.4 s, and wait for what is left of it.
    assert sum(latency >= STALL / 2 for latency in opened.latencies) >= 40
    assert max(opened.latencies) >= STALL * 0.9
    # The closed loop asks nothing meanwhile, and so only one request notices.
    assert sum(latency >= STALL * 0.9 for latency in closed.latencies) >= 1
    assert sorted(closed.latencies)[-10] < sorted(opened.latencies)[-10]


async def test_the_open_loop_sends_as_many_as_were_due() -> None:
    async with answering(lambda _: RIGHT) as port:
        answers = await load.open_loop(port, repeat(ASKED), rate=500, seconds=0.5, connections=8)
    assert answers.right == 250
    answers.refuse_any_wrong("all right")


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 5\r\n\r\nright", "refused"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong", "mismatched"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "lost"),
        (b"", "lost"),
    ],
)
async def test_a_wrong_answer_is_counted_and_voids_the_run(answer: bytes, counted: str) -> None:
    async with answering(lambda number: answer if number == 2 else RIGHT) as port:
        answers = await load.closed_loop(port, iter([ASKED] * 5), connections=1, seconds=60)
    assert getattr(answers, counted) == 1
    with pytest.raises(load.WrongAnswers, match="test"):
        answers.refuse_any_wrong("test")


async def test_an_answer_in_pieces_is_one_answer() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in (RIGHT[:10], RIGHT[10:38], RIGHT[38:]):
            writer.write(piece)
            await asyncio.sleep(0.02)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, load.HOST, 0) as server:
        port = server.sockets[0].getsockname()[1]
        answers = await load.closed_loop(port, iter([ASKED]), connections=1, seconds=60)
    assert (answers.right, answers.lost) == (1, 0)


def test_percentiles_are_nearest_ranks() -> None:
    answers = load.Answers(latencies=[number / 1000 for number in range(100, 0, -1)])
    assert answers.percentile(50) == pytest.approx(50)
    assert answers.percentile(99) == pytest.approx(99)
    assert load.Answers(latencies=[0.002]).percentile(50) == pytest.approx(2)


# Ratios and bars


def outcome_of(subject: list[float], base: list[float]) -> Outcome:
    return Outcome(
        name="made",
        notes=[],
        columns=[Column("cpu_us", "CPU us", 0)],
        rounds={
            "subject": [{"cpu_us": value} for value in subject],
            "base": [{"cpu_us": value} for value in base],
        },
        pairs=[Pair("subject", "base")],
        gauge="cpu_us",
    )


def test_a_ratio_is_taken_within_a_round() -> None:
    # The machine was three times slower in the second round; the code was not.
    [ratio] = report.ratios(outcome_of([20, 60, 20], [10, 30, 10]))
    assert (ratio.min, ratio.median, ratio.max) == (2, 2, 2)


def test_the_best_rounds_are_compared_where_others_disturbed_the_rest() -> None:
    [ratio] = report.ratios(outcome_of([90, 20, 70], [10, 30, 10]))
    assert (ratio.median, ratio.best) == (7, 2)


async def test_rounds_are_interleaved() -> None:
    order = []

    async def measure(name: str) -> report.Round:
        order.append(name)
        return {"cpu_us": 1.0}

    await report.interleaved(2, {"a": lambda: measure("a"), "b": lambda: measure("b")})
    assert order == ["a", "b", "a", "b"]


@pytest.mark.parametrize(("seen", "misses"), [(2.6, 0), (2.7, 1)])
def test_the_gate_stands_a_third_above_the_goal(seen: float, misses: int) -> None:
    bar = Bar(benchmark="made", subject="subject", base="base", goal=2.0)
    assert len(report.missed([outcome_of([seen], [1.0])], [bar])) == misses


def test_a_bar_that_nothing_measured_is_missed() -> None:
    renamed = Bar(benchmark="made", subject="gone", base="base", goal=2.0)
    elsewhere = Bar(benchmark="not run", subject="subject", base="base", goal=2.0)
    found = report.missed([outcome_of([1.0], [1.0])], [renamed, elsewhere])
    assert found == ["made: gone / base was not measured"]


def test_every_bar_names_a_benchmark() -> None:
    bars = report.read_bars()
    assert bars
    assert {bar.benchmark for bar in bars} <= set(suite.BENCHMARKS)


# Processes


def alive(pids: set[int]) -> set[int]:
    """Those that still run; a zombie does not."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                found.add(pid)
    return found


@pytest.fixture
def burning() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield process
        process.kill()


def test_cpu_time_is_that_of_the_tree(burning: subprocess.Popen[bytes]) -> None:
    assert burning.pid in processes.tree(os.getpid())
    assert burning.pid not in processes.tree(os.getpid(), without=[burning.pid])
    before = processes.cpu_times([burning.pid])
    deadline = time.monotonic() + 60
    while True:
        found = processes.spent(before, processes.cpu_times([burning.pid]))
        if found.microseconds > 1000:
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert found.vanished == 0


async def test_a_server_is_stopped_when_its_user_fails() -> None:
    pids = set()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what fails is the user of the context
        async with processes.baseline("hello_raw") as server:
            pids.add(server.pid)
            assert alive(pids) == pids
            raise ZeroDivisionError
    assert not alive(pids)


async def test_a_server_that_does_not_start_says_why() -> None:
    with pytest.raises(processes.NotStarted, match="no_such"):
        async with processes.baseline("no_such"):  # type: ignore[arg-type] # the point
            pass


def test_a_terminated_run_leaves_nothing(tmp_path: Path) -> None:
    seen: set[int] = set()
    with subprocess.Popen(
        bench_command("http", "--quick", "--rounds", "100"),
        cwd=REPOSITORY,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        deadline = time.monotonic() + 180
        while len(seen) < 15:  # all four servers and PostgreSQL's backends
            assert process.poll() is None
            assert time.monotonic() < deadline
            seen = set(processes.tree(process.pid))
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=180)
    assert process.returncode == 3, said
    assert b"stopped" in said
    assert not alive(seen)
    assert list(tmp_path.iterdir()) == []


async def answer_of(port: int, wire: bytes) -> dict[str, Any]:
    """The body of the answer to a request as the generator writes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(wire)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 "), head
    [length] = [
        int(line.partition(b":")[2])
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"content-length:")
    ]
    found: dict[str, Any] = json.loads(await reader.readexactly(length))
    writer.close()
    await writer.wait_closed()
    return found


@pytest.mark.soak
async def test_minting_and_reading_are_measured_in_deployments_of_several_sizes() -> None:
    outcome = await suite.BENCHMARKS["growth-mint"].run(Options(rounds=1, quick=True))
    assert list(outcome.rounds) == [
        *("mint, 1 thousand", "token, 1 thousand", "mint, 5 thousand", "token, 5 thousand")
    ]
    assert all(one["postgres_us"] > 0 for [one] in outcome.rounds.values())
    assert len([note for note in outcome.notes if "growth exponent" in note]) == 2


@pytest.mark.soak
async def test_a_mint_is_timed_with_refreshing_beside_it_and_without() -> None:
    outcome = await suite.BENCHMARKS["mint-refresh"].run(Options(rounds=1, quick=True))
    [without], [beside] = outcome.rounds.values()
    assert without["refreshes"] == 0 < beside["refreshes"]


async def test_mints_that_ours_is_compared_with_give_what_ours_gives() -> None:
    async with mint.bench(2) as running:
        subject = running.variants["mint"]
        for name in ("by hand", "with an ORM", "bare mint"):
            baseline = running.variants[name]
            for _ in range(2):  # each user
                ours = await answer_of(subject.server.port, next(subject.requests).wire)
                by_hand = await answer_of(baseline.server.port, next(baseline.requests).wire)
                same_but_for_the_bearer(ours["dynamic_variables"], by_hand["dynamic_variables"])


def same_but_for_the_bearer(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    of_one = {"keyturn_conversation_id", "secret__keyturn_authorization"}
    assert given.keys() == wanted.keys()
    assert {n: v for n, v in given.items() if n not in of_one} == {
        n: v for n, v in wanted.items() if n not in of_one
    }
    assert all(given[name] and given[name] != wanted[name] for name in of_one)
    assert len([name for name in given if name.startswith("secret__user_")]) == 10
