"""What is sealed opens where it was sealed, with the key that sealed it, and nowhere else."""

import copy
import ctypes
import hashlib
import json
import os
import pickle
import runpy
import unicodedata
import weakref
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import assume, given
from hypothesis import strategies as st

from vault import seal
from vault.errors import IntegrityError
from vault.seal import Context, KeyMaterial, SealingKey, UnknownKey, open_sealed

VECTORS = Path(__file__).parents[1] / "vectors"
FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "reference" / "format.md"
DOCUMENT = json.loads((VECTORS / "seal_v1.json").read_text(encoding="utf-8"))
decode: Callable[..., bytes] = runpy.run_path(str(VECTORS / "decoder.py"))["decode"]
maker = runpy.run_path(str(VECTORS / "make_seal_v1.py"))

KEY = SealingKey.from_workspace_key(b"k" * 16, bytes(range(32)))
USER_KEY = bytes(range(32, 64))
PLACE = Context(
    workspace="wsp_ada",
    table="connection",
    row="con_1",
    field="tokens",
    generation=7,
    environment="production",
)
PLAINTEXT = b"ya29.a-token-that-nobody-may-see"


def by_name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def unhex(vector: dict[str, Any], *names: str) -> list[bytes]:
    return [bytes.fromhex(vector[name]) for name in names]


def key_of(vector: dict[str, Any]) -> SealingKey:
    key_id, workspace_key, user_key = unhex(vector, "key_id", "workspace_key", "user_key")
    key = SealingKey.from_workspace_key(key_id, workspace_key)
    return key.for_user(user_key) if user_key else key


def plaintext_of(vector: dict[str, Any]) -> bytes:
    if "plaintext" in vector:
        return bytes.fromhex(vector["plaintext"])
    long = hashlib.shake_256(b"keyturn vector: " + vector["name"].encode())
    plaintext = long.digest(vector["plaintext_size"])
    assert hashlib.sha256(plaintext).hexdigest() == vector["plaintext_sha256"]
    return plaintext


def seal_again(vector: dict[str, Any]) -> bytes:
    fresh = b"".join(unhex(vector, "salt", "nonce"))
    place = Context(**vector["context"])
    return seal.seal(key_of(vector), place, plaintext_of(vector), random=lambda _size: fresh)


class TestVectors:
    @pytest.mark.parametrize("vector", DOCUMENT["sealed"], ids=by_name)
    def test_sealing_again_gives_the_same_bytes(self, vector: dict[str, Any]) -> None:
        sealed = seal_again(vector)
        if "sealed" in vector:
            assert sealed.hex() == vector["sealed"]
        else:
            assert hashlib.sha256(sealed).hexdigest() == vector["sealed_sha256"]

    @pytest.mark.parametrize("vector", DOCUMENT["sealed"], ids=by_name)
    def test_opens_for_ever(self, vector: dict[str, Any]) -> None:
        sealed = bytes.fromhex(vector.get("sealed", "")) or seal_again(vector)
        opened = open_sealed(key_of(vector), Context(**vector["context"]), sealed)
        assert opened == plaintext_of(vector)

    @pytest.mark.parametrize("vector", DOCUMENT["sealed"], ids=by_name)
    def test_the_decoder_from_the_documentation_opens_it(self, vector: dict[str, Any]) -> None:
        sealed = bytes.fromhex(vector.get("sealed", "")) or seal_again(vector)
        keys = unhex(vector, "key_id", "workspace_key", "user_key")
        assert decode(*keys, vector["context"], sealed) == plaintext_of(vector)

    @pytest.mark.parametrize("vector", DOCUMENT["sealed"], ids=by_name)
    def test_the_derived_keys_are_the_published_ones(self, vector: dict[str, Any]) -> None:
        (salt,) = unhex(vector, "salt")
        expected = tuple(unhex(vector, "record_key", "commitment"))
        assert key_of(vector).record_keys(salt) == expected

    @pytest.mark.parametrize("vector", DOCUMENT["refused"], ids=by_name)
    def test_a_forgery_is_refused_with_the_published_error(self, vector: dict[str, Any]) -> None:
        with pytest.raises(IntegrityError) as caught:
            open_sealed(
                key_of(vector), Context(**vector["context"]), bytes.fromhex(vector["sealed"])
            )
        assert type(caught.value).__name__ == vector["error"]

    @pytest.mark.parametrize("vector", DOCUMENT["blind_index"], ids=lambda v: ascii(v["value"]))
    def test_blind_indexes_stay(self, vector: dict[str, Any]) -> None:
        (index_key,) = unhex(vector, "index_key")
        index = seal.blind_index(seal.Keyed(index_key), vector["field"], vector["value"])
        assert index.hex() == vector["index"]

    def test_the_files_are_what_their_maker_makes(self) -> None:
        for name, content in maker["build"]().items():
            assert json.loads((VECTORS / name).read_text(encoding="utf-8")) == content

    def test_the_maker_does_not_replace_them(self) -> None:
        with pytest.raises(FileExistsError):
            maker["main"]()

    def test_the_page_shows_the_decoder_that_is_tested(self) -> None:
        decoder = (VECTORS / "decoder.py").read_text(encoding="utf-8")
        assert f"```python\n{decoder}```" in FORMAT_PAGE.read_text(encoding="utf-8")
        assert "vault" not in decoder


class TestDamage:
    """Every damage is an error, and the same class of error."""

    @pytest.fixture
    def sealed(self) -> bytes:
        return seal.seal(KEY.for_user(USER_KEY), PLACE, PLAINTEXT)

    def refused(self, sealed: bytes) -> None:
        with pytest.raises(IntegrityError) as caught:
            open_sealed(KEY.for_user(USER_KEY), PLACE, sealed)
        assert PLAINTEXT.decode() not in str(caught.value)

    def test_every_bit_of_every_byte(self, sealed: bytes) -> None:
        for at in range(len(sealed)):
            for bit in range(8):
                damaged = bytearray(sealed)
                damaged[at] ^= 1 << bit
                self.refused(bytes(damaged))

    def test_every_truncation(self, sealed: bytes) -> None:
        for length in range(len(sealed)):
            self.refused(sealed[:length])
            self.refused(sealed[len(sealed) - length :])

    def test_every_byte_left_out_or_doubled(self, sealed: bytes) -> None:
        for at in range(len(sealed)):
            self.refused(sealed[:at] + sealed[at + 1 :])
            self.refused(sealed[: at + 1] + sealed[at:])

    def test_extension(self, sealed: bytes) -> None:
        for extra in (b"\x00", b"\x01", bytes(16), sealed):
            self.refused(sealed + extra)
            self.refused(extra + sealed)

    def test_parts_of_two_records_do_not_mix(self, sealed: bytes) -> None:
        other = seal.seal(KEY.for_user(USER_KEY), PLACE, PLAINTEXT)
        for start, end in pairwise((17, 33, 65, 77, len(sealed) - 16, len(sealed))):
            self.refused(sealed[:start] + other[start:end] + sealed[end:])

    def test_the_smallest_value_has_93_bytes(self) -> None:
        smallest = seal.seal(KEY, PLACE, b"")
        assert len(smallest) == 93
        assert seal.key_id_of(smallest) == KEY.key_id
        with pytest.raises(IntegrityError, match="cut short"):
            seal.key_id_of(smallest[:92])

    def test_the_same_bytes_under_every_other_version(self, sealed: bytes) -> None:
        for version in set(range(256)) - {1}:
            with pytest.raises(IntegrityError, match="format"):
                open_sealed(KEY, PLACE, bytes([version]) + sealed[1:])

    def test_a_key_id_that_is_not_here_has_its_own_error(self, sealed: bytes) -> None:
        other = SealingKey.from_workspace_key(b"o" * 16, bytes(range(32)))
        with pytest.raises(UnknownKey):
            open_sealed(other, PLACE, sealed)

    def test_the_commitment_is_part_of_what_is_authenticated(self) -> None:
        """A record that only lacks the commitment in its associated data does not open."""
        salt, nonce = os.urandom(16), os.urandom(12)
        record_key, commitment = KEY.record_keys(salt)
        parts = [b"keyturn/1", b"\x01", KEY.key_id]
        parts += [b"wsp_ada", b"connection", b"con_1", b"tokens"]
        parts += [(7).to_bytes(8, "big"), b"production"]
        head = b"\x01" + KEY.key_id + salt + commitment + nonce

        def forged(*authenticated: bytes) -> bytes:
            data = b"".join(len(part).to_bytes(4, "big") + part for part in authenticated)
            return head + AESGCM(record_key).encrypt(nonce, PLAINTEXT, data)

        assert open_sealed(KEY, PLACE, forged(*parts, commitment)) == PLAINTEXT
        for left_out in range(len(parts)):
            remaining = parts[:left_out] + parts[left_out + 1 :]
            with pytest.raises(IntegrityError):
                open_sealed(KEY, PLACE, forged(*remaining, commitment))
        with pytest.raises(IntegrityError):
            open_sealed(KEY, PLACE, forged(*parts))


class TestMoves:
    """The row that comes back is not believed: a value opens only where it was sealed."""

    @pytest.mark.parametrize("user_key", [None, USER_KEY], ids=["workspace's", "user's"])
    @pytest.mark.parametrize(
        ("part", "value"),
        [
            ("workspace", "wsp_bob"),
            ("table", "integration"),
            ("row", "con_2"),
            ("field", "extras"),
            ("generation", 6),
            ("generation", 8),
            ("generation", 7 + 2**32),
            ("environment", "staging"),
            ("environment", ""),
        ],
    )
    def test_another_place_is_refused(
        self, part: str, value: str | int, user_key: bytes | None
    ) -> None:
        key = KEY.for_user(user_key) if user_key else KEY
        sealed = seal.seal(key, PLACE, PLAINTEXT)
        moved = msgspec.structs.replace(PLACE, **{part: value})
        with pytest.raises(IntegrityError):
            open_sealed(key, moved, sealed)
        # And the other way round: what was sealed there does not open here.
        with pytest.raises(IntegrityError):
            open_sealed(key, PLACE, seal.seal(key, moved, PLAINTEXT))
        assert open_sealed(key, PLACE, sealed) == PLAINTEXT

    def test_another_workspace_key_under_the_same_id_is_refused(self) -> None:
        other = SealingKey.from_workspace_key(KEY.key_id, bytes(32))
        with pytest.raises(IntegrityError):
            open_sealed(other, PLACE, seal.seal(KEY, PLACE, PLAINTEXT))

    def test_a_users_row_needs_that_users_key(self) -> None:
        sealed = seal.seal(KEY.for_user(USER_KEY), PLACE, PLAINTEXT)
        for key in (KEY, KEY.for_user(bytes(32)), KEY.for_user(USER_KEY[::-1])):
            with pytest.raises(IntegrityError):
                open_sealed(key, PLACE, sealed)
        assert open_sealed(KEY.for_user(USER_KEY), PLACE, sealed) == PLAINTEXT

    def test_a_users_row_needs_the_workspaces_key_too(self) -> None:
        sealed = seal.seal(KEY.for_user(USER_KEY), PLACE, PLAINTEXT)
        other = SealingKey.from_workspace_key(KEY.key_id, bytes(32))
        with pytest.raises(IntegrityError):
            open_sealed(other.for_user(USER_KEY), PLACE, sealed)

    def test_a_workspaces_row_does_not_open_with_a_users_key(self) -> None:
        with pytest.raises(IntegrityError):
            open_sealed(KEY.for_user(USER_KEY), PLACE, seal.seal(KEY, PLACE, PLAINTEXT))

    @pytest.mark.parametrize(
        ("one", "two"), list(pairwise(("workspace", "table", "row", "field", "environment")))
    )
    def test_parts_do_not_run_into_each_other(self, one: str, two: str) -> None:
        """'a|b' + 'c' is not 'a' + 'b|c', whatever separates them."""
        for left, right in ((("ab", "c"), ("a", "bc")), (("a|b", "c"), ("a", "b|c"))):
            here = msgspec.structs.replace(PLACE, **dict(zip((one, two), left, strict=True)))
            there = msgspec.structs.replace(PLACE, **dict(zip((one, two), right, strict=True)))
            with pytest.raises(IntegrityError):
                open_sealed(KEY, there, seal.seal(KEY, here, PLAINTEXT))

    def test_parts_do_not_swap(self) -> None:
        here = msgspec.structs.replace(PLACE, table="a", row="b")
        there = msgspec.structs.replace(PLACE, table="b", row="a")
        with pytest.raises(IntegrityError):
            open_sealed(KEY, there, seal.seal(KEY, here, PLAINTEXT))


names = st.text(st.characters(codec="utf-8"), max_size=20)
contexts = st.builds(
    Context,
    workspace=names,
    table=names,
    row=names,
    field=names,
    generation=st.integers(0, 2**64 - 1),
    environment=names,
)
keys = st.binary(min_size=32, max_size=32)


class TestAnything:
    @given(contexts, st.binary(max_size=4096), keys, st.none() | keys)
    def test_what_was_sealed_opens(
        self, place: Context, plaintext: bytes, workspace_key: bytes, user_key: bytes | None
    ) -> None:
        key = SealingKey.from_workspace_key(b"k" * 16, workspace_key)
        key = key.for_user(user_key) if user_key else key
        sealed = seal.seal(key, place, plaintext)
        assert len(sealed) == len(plaintext) + seal.OVERHEAD == len(plaintext) + 93
        assert seal.key_id_of(sealed) == b"k" * 16
        assert open_sealed(key, place, sealed) == plaintext

    @given(contexts, contexts)
    def test_two_places_never_share_a_value(self, here: Context, there: Context) -> None:
        assume(here != there)
        with pytest.raises(IntegrityError):
            open_sealed(KEY, there, seal.seal(KEY, here, PLAINTEXT))

    @given(st.binary(max_size=300))
    def test_arbitrary_bytes_do_not_open(self, sealed: bytes) -> None:
        with pytest.raises(IntegrityError):
            open_sealed(KEY, PLACE, sealed)

    @given(st.binary(max_size=300))
    def test_arbitrary_bytes_behind_a_good_header_do_not_open(self, rest: bytes) -> None:
        with pytest.raises(IntegrityError):
            open_sealed(KEY, PLACE, b"\x01" + KEY.key_id + rest)


class TestRandomness:
    def test_salts_and_nonces_never_repeat(self) -> None:
        salts, nonces, bodies = set(), set(), set()
        for _ in range(100_000):
            sealed = seal.seal(KEY, PLACE, b"")
            salts.add(sealed[17:33])
            nonces.add(sealed[65:77])
            bodies.add(sealed[77:])
        assert len(salts) == len(nonces) == len(bodies) == 100_000

    def test_salt_and_nonce_are_independent(self) -> None:
        sealed = seal.seal(KEY, PLACE, b"", random=lambda size: bytes(range(size)))
        assert sealed[17:33] == bytes(range(16))
        assert sealed[65:77] == bytes(range(16, 28))

    @pytest.mark.parametrize("size", [0, 27, 29])
    def test_a_source_that_gives_too_little_is_refused(self, size: int) -> None:
        with pytest.raises(ValueError, match="28 bytes"):
            seal.seal(KEY, PLACE, PLAINTEXT, random=lambda _: bytes(size))

    def test_sealing_twice_gives_no_equal_part(self) -> None:
        one, two = (seal.seal(KEY, PLACE, PLAINTEXT) for _ in range(2))
        for start, end in pairwise((17, 33, 65, 77, len(one))):
            assert one[start:end] != two[start:end]


class TestBlindIndex:
    INDEX_KEY = bytes(range(32))

    def test_one_name_on_two_keyboards_is_one_name(self) -> None:
        composed = unicodedata.normalize("NFC", "Zoë")
        decomposed = unicodedata.normalize("NFD", "Zoë")
        assert composed != decomposed
        assert self.of("name", composed) == self.of("name", decomposed)

    def test_it_has_16_bytes(self) -> None:
        assert len(self.of("email", "ada@example.com")) == 16

    def test_fields_and_values_do_not_run_into_each_other(self) -> None:
        assert self.of("ab", "c") != self.of("a", "bc")

    def test_workspaces_are_not_linkable(self) -> None:
        assert self.of("email", "a") != seal.blind_index(seal.Keyed(bytes(32)), "email", "a")

    def of(self, field: str, value: str) -> bytes:
        return seal.blind_index(seal.Keyed(self.INDEX_KEY), field, value)


class TestKeysAreNotSeen:
    def test_a_key_prints_its_id_only(self) -> None:
        shown = f"{KEY!r} {KEY}"
        assert KEY.key_id.hex() in shown
        derive = runpy.run_path(str(VECTORS / "decoder.py"))["derive"]
        data_key = derive(bytes(range(32)), b"keyturn/enc/1")
        assert data_key.hex() not in shown
        assert repr(data_key) not in shown

    def test_key_material_does_not_print(self) -> None:
        material = KeyMaterial(b"0123456789abcdef")
        assert f"{material!r} {material} {[material]}".count("KeyMaterial(***)") == 3

    @pytest.mark.parametrize("held", [KEY, KeyMaterial(32)], ids=["key", "material"])
    def test_it_cannot_be_serialized_or_copied(self, held: object) -> None:
        for serialize in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
            with pytest.raises(TypeError):
                serialize(held)

    def test_msgspec_refuses_a_key(self) -> None:
        for encode in (msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins):
            with pytest.raises(TypeError):
                encode(KEY)

    def test_key_material_is_zeroed_when_the_last_holder_lets_go(self) -> None:
        gone: list[str] = []
        material = KeyMaterial(bytes(range(32)))
        weakref.finalize(material, gone.append, "gone")
        key = SealingKey(b"k" * 16, material)
        del material
        assert gone == []
        del key
        assert gone == ["gone"]
        # Large, so that nobody is given its place before one has looked.
        large = KeyMaterial(b"s" * 100_000)
        address = ctypes.addressof(ctypes.c_char.from_buffer(large))
        assert ctypes.string_at(address + 50_000, 64) == b"s" * 64
        del large
        assert ctypes.string_at(address + 50_000, 64) == bytes(64)

    def test_a_users_key_outlives_the_workspaces(self) -> None:
        workspace_key = SealingKey.from_workspace_key(b"k" * 16, bytes(range(32)))
        users_key = workspace_key.for_user(USER_KEY)
        del workspace_key
        assert open_sealed(KEY.for_user(USER_KEY), PLACE, seal.seal(users_key, PLACE, b"x")) == b"x"

    @pytest.mark.parametrize(("id_size", "key_size"), [(15, 32), (17, 32), (16, 31), (16, 33)])
    def test_a_key_of_the_wrong_size_is_refused_without_showing_it(
        self, id_size: int, key_size: int
    ) -> None:
        with pytest.raises(ValueError, match="bytes") as caught:
            SealingKey.from_workspace_key(b"i" * id_size, b"s" * key_size)
        assert "ss" not in str(caught.value)

    def test_a_user_key_of_the_wrong_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match="32 bytes"):
            KEY.for_user(b"")
