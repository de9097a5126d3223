"""A bearer has one spelling; everything else is refused without repeating it."""

import hashlib
import hmac
import json
import re
import string
import zlib
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vault import bearer
from vault.bearer import Kind
from vault.errors import Invalid
from vault.secret import Secret

VECTORS = json.loads(
    (Path(__file__).parents[1] / "vectors" / "bearer_v1.json").read_text(encoding="utf-8")
)["bearers"]
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
KINDS: tuple[Kind, ...] = get_args(Kind)
kinds = st.sampled_from(KINDS)
randoms = st.binary(min_size=32, max_size=32)


def made(kind: Kind = "api_key", random: bytes = bytes(range(32))) -> str:
    return bearer.generate(kind, random=lambda _size: random).reveal()


def number(text: str) -> int:
    value = 0
    for character in text:
        value = value * 62 + ALPHABET.index(character)
    return value


def with_checksum(body: str) -> str:
    """Complete a body as docs/reference/format.md says, independently of our code."""
    rest, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        digits = ALPHABET[digit] + digits
    return body + digits


def reason(text: str | Secret) -> str:
    with pytest.raises(Invalid) as caught:
        bearer.parse(text)
    assert bearer.kind_of(text) is None
    shown = text if isinstance(text, str) else text.reveal_bytes().decode("latin-1")
    assert len(shown) < 8 or shown[4:] not in str(caught.value)
    return str(caught.value)


class TestFormat:
    @pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["bearer"][:8])
    def test_vectors_stay(self, vector: dict[str, str]) -> None:
        text = made(vector["kind"], bytes.fromhex(vector["random"]))  # type: ignore[arg-type]
        assert text == vector["bearer"]
        assert bearer.parse(text) == vector["kind"]
        fingerprint = bearer.fingerprint(bytes.fromhex(vector["pepper"]), text)
        assert fingerprint.hex() == vector["fingerprint"]

    @given(kinds, randoms)
    def test_every_bearer_is_as_documented(self, kind: Kind, random: bytes) -> None:
        text = made(kind, random)
        prefix, _, rest = text.partition("_")
        assert prefix + "_" == bearer.PREFIXES[kind]
        assert re.fullmatch(r"[0-9A-Za-z]{49}", rest)
        assert number(rest[:43]).to_bytes(32, "big") == random
        assert text == with_checksum(text[:-6])
        assert bearer.parse(text) == bearer.parse(Secret(text)) == kind
        assert bearer.kind_of(text) == kind

    def test_the_prefixes_are_the_published_ones(self) -> None:
        assert bearer.PREFIXES == {
            "api_key": "kt_",
            "operator": "kto_",
            "grant": "ktg_",
            "handle": "kth_",
            "sealed": "kts_",
            "connect": "ktc_",
        }
        assert set(bearer.PREFIXES) == set(KINDS)

    def test_the_scanner_pattern_of_the_page_finds_each_kind(self) -> None:
        page = Path(__file__).parents[2] / "docs" / "reference" / "format.md"
        found = re.search(r"pattern for a scanner: `(.+)`", page.read_text(encoding="utf-8"))
        assert found is not None
        for kind in KINDS:
            assert re.search(found[1], f'key = "{made(kind)}"')

    def test_small_numbers_are_padded(self) -> None:
        assert made("grant", bytes(32)).startswith("ktg_" + "0" * 43)


class TestRandomness:
    def test_ten_thousand_differ(self) -> None:
        texts = {bearer.generate("api_key").reveal() for _ in range(10_000)}
        assert len(texts) == 10_000
        assert len({text[3:13] for text in texts}) == 10_000

    def test_all_32_bytes_are_asked_for(self) -> None:
        asked: list[int] = []

        def random(size: int) -> bytes:
            asked.append(size)
            return bytes(size)

        bearer.generate("api_key", random=random)
        assert asked == [32]

    def test_what_is_made_is_a_secret(self) -> None:
        made = bearer.generate("operator")
        assert made.reveal() not in f"{made!r}{made}"


class TestRefusals:
    @pytest.mark.parametrize("prefix", ["", "k_", "ktx_", "KT_", "kt-", "sk_", " kt_", "_"])
    def test_another_prefix(self, prefix: str) -> None:
        assert "prefix" in reason(with_checksum(prefix + made()[3:46]))

    @pytest.mark.parametrize("kind", KINDS)
    def test_another_kinds_prefix_breaks_the_checksum(self, kind: Kind) -> None:
        for other in set(KINDS) - {kind}:
            assert "checksum" in reason(bearer.PREFIXES[other] + made(kind).partition("_")[2])

    @pytest.mark.parametrize("length", [0, 1, 3, 46, 51])
    def test_cut(self, length: int) -> None:
        assert re.search("length|prefix", reason(made()[:length]))

    @pytest.mark.parametrize("extra", ["0", " ", "\n", "\x00", "00"])
    def test_longer(self, extra: str) -> None:
        assert "length" in reason(made() + extra)

    @pytest.mark.parametrize(
        "character", ["_", "-", "+", "/", "=", " ", "\n", "\x00", "é", "\u0661", "\uff21"]
    )
    def test_a_character_outside_the_alphabet(self, character: str) -> None:
        text = made()
        for at in (3, 20, 45, 46, 51):
            assert "character" in reason(text[:at] + character + text[at + 1 :])

    def test_numbers_beyond_32_bytes(self) -> None:
        largest = made(random=b"\xff" * 32)[3:46]
        assert bearer.parse(with_checksum("kt_" + largest)) == "api_key"
        following = largest[:-1] + ALPHABET[ALPHABET.index(largest[-1]) + 1]
        assert number(following) == 2**256
        for body in (following, "z" * 43):
            assert "larger" in reason(with_checksum("kt_" + body))

    def test_every_single_typing_mistake_is_noticed(self) -> None:
        text = made()
        for at in range(3, len(text)):
            for character in ALPHABET.replace(text[at], ""):
                assert bearer.kind_of(text[:at] + character + text[at + 1 :]) is None

    def test_two_neighbours_swapped(self) -> None:
        text = made()
        for at in range(3, len(text) - 1):
            if text[at] != text[at + 1]:
                swapped = text[:at] + text[at + 1] + text[at] + text[at + 2 :]
                assert bearer.kind_of(swapped) is None

    def test_another_checksum_algorithm(self) -> None:
        body = made()[:-6]
        adler = f"{zlib.adler32(body.encode()):06d}"[:6]
        assert "checksum" in reason(body + adler)

    @given(st.text(max_size=80))
    def test_arbitrary_text(self, text: str) -> None:
        assert bearer.kind_of(text) is None

    @given(st.binary(max_size=80))
    def test_arbitrary_bytes_in_a_secret(self, held: bytes) -> None:
        assert bearer.kind_of(Secret(held)) is None

    @given(kinds, randoms, st.text(st.characters(codec="utf-8"), min_size=43, max_size=43))
    def test_no_other_spelling_is_accepted(self, kind: Kind, random: bytes, text: str) -> None:
        """Whatever is accepted is what would have been made of the same number."""
        candidate = with_checksum(bearer.PREFIXES[kind] + text)
        if bearer.kind_of(candidate) is not None:
            value = number(candidate[len(bearer.PREFIXES[kind]) : -6])
            assert made(kind, value.to_bytes(32, "big")) == candidate
        assert bearer.kind_of(made(kind, random)) == kind


class TestFingerprint:
    def test_it_is_an_hmac_under_the_pepper(self) -> None:
        expected = hmac.new(b"pepper", made().encode(), hashlib.sha256).digest()
        assert bearer.fingerprint(b"pepper", made()) == expected
        assert bearer.fingerprint(b"pepper", Secret(made())) == expected

    def test_another_pepper_gives_another_one(self) -> None:
        assert bearer.fingerprint(b"a", made()) != bearer.fingerprint(b"b", made())

    @given(st.text(st.characters() | st.characters(categories=["Cs"]), max_size=80))
    @example("kt_\ud800")
    def test_any_text_has_one(self, text: str) -> None:
        """Also lone surrogates: an encoding error would carry the text into a log."""
        assert len(bearer.fingerprint(b"pepper", text)) == 32
