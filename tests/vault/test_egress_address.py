"""Where a call may go: what ``EGRESS_ALLOW`` opens, and what needs no permission."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from vault.egress import Egress, Purpose, parse_allow
from vault.egress.address import is_public, permits, read, vet
from vault.errors import EgressDenied, Misconfigured

PURPOSES: tuple[Purpose, ...] = ("provider", "upstream", "tool", "event")


def opened(allow: str, *, development: bool, place: str = "10.0.0.5:8080") -> set[str]:
    """List what `allow` opens at a literal address, as 'purpose scheme'."""
    rules = parse_allow(allow, development=development)
    found = set()
    for purpose in PURPOSES:
        for scheme in ("http", "https"):
            try:
                vet(rules, purpose, f"{scheme}://{place}/")
            except EgressDenied:
                continue
            found.add(f"{purpose} {scheme}")
    return found


EVERYTHING = {f"{purpose} {scheme}" for purpose in PURPOSES for scheme in ("http", "https")}
UPSTREAM = {"upstream http", "upstream https"}
EVERY_HTTPS = {f"{purpose} https" for purpose in PURPOSES}


@pytest.mark.parametrize(
    ("entry", "in_development", "in_production"),
    [
        ("", set(), set()),
        (" , ", set(), set()),
        ("10.0.0.0/8", EVERYTHING, {"provider https"}),
        ("10.0.0.5", EVERYTHING, {"provider https"}),
        (" 10.0.0.5:8080 ", EVERYTHING, {"provider https"}),
        ("10.0.0.0/8:8080", EVERYTHING, {"provider https"}),
        ("10.0.0.5:8081", set(), set()),
        ("10.0.0.6", set(), set()),
        ("https://10.0.0.5", EVERY_HTTPS, {"provider https"}),
        ("http://10.0.0.5", EVERYTHING, {"provider http", "provider https"}),
        ("HTTP://10.0.0.5", EVERYTHING, {"provider http", "provider https"}),
        ("event=10.0.0.5", {"event http", "event https"}, {"event https"}),
        ("tool=10.0.0.5:8080", {"tool http", "tool https"}, {"tool https"}),
        ("tool=http://10.0.0.5:8080", {"tool http", "tool https"}, {"tool http", "tool https"}),
        ("tool=https://10.0.0.5:8080", {"tool https"}, {"tool https"}),
        ("http://10.0.0.0/8:1,upstream=10.0.0.5", UPSTREAM, {"upstream https"}),
        ("::/0,fd00::/8", set(), set()),
    ],
)  # fmt: skip
def test_an_entry_opens_what_it_says_and_no_more(
    entry: str, in_development: set[str], in_production: set[str]
) -> None:
    assert opened(entry, development=True) == in_development
    assert opened(entry, development=False) == in_production


@pytest.mark.parametrize(
    ("entry", "place", "opens"),
    [
        ("fd00::/8", "[fd00::1]:8080", True),
        ("[fd00::]/8", "[fd00::1]:8080", False),
        ("[fd00::/8]:8080", "[fd00::1]:8080", True),
        ("[fd00::1]:8080", "[fd00:0::1]:8080", True),
        ("[fd00::1]:8081", "[fd00::1]:8080", False),
        ("fd00::1", "[fd00::2]:8080", False),
        ("::1", "[::1]:8080", True),
        ("10.0.0.0/8", "[::ffff:10.0.0.5]:8080", True),
        ("auth.internal", "auth.internal:8080", True),
        ("Auth.Internal:8080", "AUTH.internal:8080", True),
        ("auth.internal:8081", "auth.internal:8080", False),
        ("auth.internal", "xauth.internal:8080", False),
        ("auth.internal", "x.auth.internal:8080", False),
        ("*.internal", "auth.internal:8080", True),
        ("*.internal", "a.b.internal:8080", True),
        ("*.internal", "internal:8080", False),
        ("*.internal", "xinternal:8080", False),
        ("*.internal", "internal.example.com:8080", False),
    ],
)
def test_an_entry_names_addresses_networks_and_names(entry: str, place: str, opens: bool) -> None:  # noqa: FBT001 - a column
    if entry == "[fd00::]/8":
        with pytest.raises(Misconfigured):
            parse_allow(entry, development=True)
        return
    assert opened(entry, development=True, place=place) == (EVERYTHING if opens else set())


@pytest.mark.parametrize(
    "entry",
    [
        *("tools=10.0.0.5", "=10.0.0.5", "tool=", "tool=:80", "a b", "b\u00fccher.example"),
        *("10.0.0.5/8", "10.0.0.0/33", "10.0.0.256", "127.1", "0x7f.1", "*", "a.*.b", "*.*.b"),
        *("10.0.0.5:0", "10.0.0.5:65536", "10.0.0.5:a", "10.0.0.5:", "[::1", "[::1]x", "[]"),
        *("ftp://10.0.0.5", "http://10.0.0.5/path", "user:sentinel@10.0.0.5", "user@auth.internal"),
        *("169.254.169.254", "169.254.0.0/16", "fe80::1", "fd00:ec2::254", "224.0.0.1", "0.0.0.1"),
    ],
)
def test_an_entry_that_cannot_be_read_stops_the_start_and_is_not_repeated(entry: str) -> None:
    for development in (True, False):
        with pytest.raises(Misconfigured, match="EGRESS_ALLOW, entry 2: ") as caught:
            parse_allow(f"10.0.0.0/8,{entry}", development=development)
        assert "sentinel" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.example.com", "api.example.com"),
        ("HTTPS://API.Example.com:443/a?b=c", "api.example.com"),
        ("https://api.example.com:8443/", "api.example.com"),
        ("https://b\u00fccher.example/\u00e4?q=\u00e4", "xn--bcher-kva.example"),
        ("https://B\u00dcCHER.example/", "xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("https://fa\u00df.example/", "xn--fa-hia.example"),
        ("https://r3---sn-4g5.example.com/", "r3---sn-4g5.example.com"),
        ("https://3com.example1/", "3com.example1"),
        ("https://93.184.216.34/", "93.184.216.34"),
        ("https://[2606:4700:0::1111]/", "2606:4700::1111"),
    ],
)
def test_a_public_https_url_needs_no_permission(url: str, host: str) -> None:
    for purpose in PURPOSES:
        vetted = vet((), purpose, url)
        assert (vetted.host, vetted.url.raw_host) == (host, host)
        assert "?" not in repr(vetted)


def test_plain_http_is_refused_on_whatever_port() -> None:
    for port in ("", ":80", ":443", ":8443"):
        with pytest.raises(EgressDenied):
            vet((), "tool", f"http://api.example.com{port}/")
    assert not permits((), "tool", read("http://api.example.com:443/"), ip_address("8.8.8.8"))


@pytest.mark.parametrize("port", [1, 22, 80, 444, 5432, 6379, 9443, 65_535])
def test_a_public_host_is_called_on_two_ports_unless_an_entry_opens_another(port: int) -> None:
    named = parse_allow(f"tool=api.example.com:{port}", development=False)
    for host in ("api.example.com", "93.184.216.34"):
        with pytest.raises(EgressDenied):
            vet((), "tool", f"https://{host}:{port}/")
    assert vet(named, "tool", f"https://api.example.com:{port}/").port == port
    for other in (f"http://api.example.com:{port}/", f"https://other.example.com:{port}/"):
        with pytest.raises(EgressDenied):
            vet(named, "tool", other)


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "198.20.0.1", "223.255.255.255"),
        *("2606:4700::1111", "2a00:1450::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"),
    ],
)
def test_an_address_of_the_open_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("content", [None, b"", b"not a certificate"])
def test_an_authority_file_that_cannot_be_read_stops_the_start(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Misconfigured, match="EGRESS_CA_FILE"):
        Egress(allow=(), ca_file=file)
