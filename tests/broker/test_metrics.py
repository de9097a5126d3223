"""What is counted of requests, in plain numbers, is what the library's own counters would show."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from broker.metrics import SECONDS, Requests

requests = st.lists(
    st.tuples(
        st.sampled_from(["/livez", "/v1/users/{user_id}", 'what "nobody\\has']),
        st.sampled_from(["GET", "POST"]),
        st.sampled_from([200, 404, 500]),
        st.sampled_from([0.0, 100.0, *SECONDS]) | st.floats(0, 20),
    ),
    max_size=50,
)


def shown(registry: CollectorRegistry) -> list[str]:
    """Without when each was made, which the library adds."""
    text = generate_latest(registry).decode()
    return sorted(line for line in text.splitlines() if "_created" not in line)


@given(requests)
def test_ours_and_the_librarys_show_the_same(every: list[tuple[str, str, int, float]]) -> None:
    theirs, ours = CollectorRegistry(auto_describe=True), CollectorRegistry(auto_describe=True)
    numbers = Counter(
        "keyturn_http_requests_total",
        "Requests answered, by route template, method and status.",
        ("route", "method", "status"),
        registry=theirs,
    )
    seconds = Histogram(
        "keyturn_http_request_duration_seconds",
        "Time from a request's arrival to the end of its answer.",
        ("route", "method"),
        buckets=SECONDS,
        registry=theirs,
    )
    plain = Requests()
    ours.register(plain)
    for route, method, status, took in every:
        numbers.labels(route, method, str(status)).inc()
        seconds.labels(route, method).observe(took)
        plain.ended(route, method, status, took)
    assert shown(ours) == shown(theirs)
