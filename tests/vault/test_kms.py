"""Root keys: a wrapped key opens with its root key and for its context, and for nothing else."""

import asyncio
import base64
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.root_keys import CONTEXT, KEY, RootKeyContract, other_contexts

from vault.errors import IntegrityError, Misconfigured, NotReady, VaultError
from vault.kms import (
    KeyInfo,
    RootKey,
    RootKeyDisabled,
    RootKeys,
    RootKeyUnknown,
    WrapContext,
    Wrapped,
    bind,
    kinds_of,
    open_root_key,
    own_services,
    unbind,
)
from vault.kms.file import FileRootKey, check_protection, create, key_id, new_line
from vault.secret import Secret

DOCUMENT = json.loads(
    (Path(__file__).parents[1] / "vectors" / "wrap_v1.json").read_text(encoding="utf-8")
)
ONE, TWO, THREE = (
    base64.b64encode(hashlib.sha256(c).digest()).decode() for c in (b"1", b"2", b"3")
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "root.key"


def remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def write(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    remove(path)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def raw(line: str) -> bytes:
    return base64.b64decode(line)


class TestFile(RootKeyContract):
    @pytest.fixture
    def root(self, path: Path) -> RootKey:
        return FileRootKey(write(path, f"{ONE}\n{TWO}\n"))


class TestRawFile(RootKeyContract):
    @pytest.fixture
    def root(self, path: Path) -> RootKey:
        return open_root_key(f"file://{write(path, raw(ONE))}")


class TestVectors:
    @pytest.mark.parametrize("vector", DOCUMENT["wrapped"], ids=lambda v: v["name"])
    async def test_they_unwrap_for_ever(self, vector: dict[str, Any], path: Path) -> None:
        context = WrapContext(**vector["context"])
        assert context.canonical().hex() == vector["canonical"]
        root_key = bytes.fromhex(vector["root_key"])
        root = FileRootKey(write(path, root_key))
        assert (await root.key_info()).current == key_id(root_key) == vector["root_key_id"]
        wrapped = Wrapped(bytes.fromhex(vector["blob"]), vector["root_key_id"])
        assert (await root.unwrap(wrapped, context)).hex() == vector["key"]

    @pytest.mark.parametrize("vector", DOCUMENT["wrapped"], ids=lambda v: v["name"])
    def test_the_documented_bytes_open_them(self, vector: dict[str, Any]) -> None:
        fields = ("app", "deployment_id", "workspace", "key_id", "purpose")
        parts = [b"keyturn/wrap/1", *(vector["context"][field].encode() for field in fields)]
        context = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        root_key, blob = bytes.fromhex(vector["root_key"]), bytes.fromhex(vector["blob"])
        bound = AESGCM(root_key).decrypt(blob[1:13], blob[13:], context)
        assert blob[0] == 1
        assert bound == hashlib.sha256(context).digest() + bytes.fromhex(vector["key"])
        named = hashlib.sha256(b"keyturn/root-key-id/1" + root_key).hexdigest()[:16]
        assert named == vector["root_key_id"]


class TestBinding:
    """The part of the contract that a backend without associated data rests on."""

    def test_a_bound_key_comes_back(self) -> None:
        assert unbind(bind(KEY, CONTEXT), CONTEXT) == KEY

    @pytest.mark.parametrize("other", other_contexts(), ids=str)
    def test_another_context_is_refused(self, other: WrapContext) -> None:
        assert other.canonical() != CONTEXT.canonical()
        with pytest.raises(IntegrityError):
            unbind(bind(KEY, CONTEXT), other)

    @pytest.mark.parametrize("length", [0, 1, 31])
    def test_less_than_a_hash_is_refused(self, length: int) -> None:
        with pytest.raises(IntegrityError):
            unbind(bind(KEY, CONTEXT)[:length], CONTEXT)

    async def test_the_file_binds_twice(self, path: Path) -> None:
        """A blob that was wrapped with the right data, around a key bound elsewhere, is refused."""
        root = FileRootKey(write(path, raw(ONE)))
        nonce = os.urandom(12)
        elsewhere = bind(KEY, other_contexts()[2])
        body = AESGCM(raw(ONE)).encrypt(nonce, elsewhere, CONTEXT.canonical())
        with pytest.raises(IntegrityError):
            await root.unwrap(Wrapped(b"\x01" + nonce + body, key_id(raw(ONE))), CONTEXT)
        body = AESGCM(raw(ONE)).encrypt(nonce, bind(KEY, CONTEXT), None)
        with pytest.raises(IntegrityError):
            await root.unwrap(Wrapped(b"\x01" + nonce + body, key_id(raw(ONE))), CONTEXT)


class TestRotation:
    async def test_the_first_line_wraps_and_every_line_unwraps(self, path: Path) -> None:
        old = FileRootKey(write(path, ONE))
        wrapped = await old.wrap(KEY, CONTEXT)
        rotated = FileRootKey(write(path, f"{TWO}\n{ONE}\n"))
        assert await rotated.unwrap(wrapped, CONTEXT) == KEY
        assert (await rotated.wrap(KEY, CONTEXT)).root_key_id == key_id(raw(TWO))
        assert await rotated.key_info() == KeyInfo(
            key_id(raw(TWO)), (key_id(raw(TWO)), key_id(raw(ONE)))
        )

    async def test_a_removed_key_is_missed_in_a_sentence(self, path: Path) -> None:
        wrapped = await FileRootKey(write(path, ONE)).wrap(KEY, CONTEXT)
        with pytest.raises(RootKeyUnknown, match="root key"):
            await FileRootKey(write(path, TWO)).unwrap(wrapped, CONTEXT)

    async def test_the_id_does_not_depend_on_place_or_order(self, path: Path) -> None:
        ids = {
            (await FileRootKey(write(path, content)).key_info()).current
            for content in (ONE, f"{ONE}\n{TWO}", f"# new\n\n  {ONE}  \r\n", raw(ONE))
        }
        assert ids == {hashlib.sha256(b"keyturn/root-key-id/1" + raw(ONE)).hexdigest()[:16]}

    async def test_a_line_added_by_another_replica_is_found(self, path: Path) -> None:
        running = FileRootKey(write(path, ONE))
        newer = FileRootKey(write(path, f"{TWO}\n{ONE}"))
        wrapped = await newer.wrap(KEY, CONTEXT)
        assert await running.unwrap(wrapped, CONTEXT) == KEY
        assert (await running.key_info()).current == key_id(raw(TWO))

    async def test_a_health_check_reads_the_file_again(self, path: Path) -> None:
        running = FileRootKey(write(path, ONE))
        write(path, f"{TWO}\n{ONE}")
        await running.health()
        assert (await running.key_info()).current == key_id(raw(TWO))

    async def test_a_lost_file_is_unhealthy_and_the_keys_go_on(self, path: Path) -> None:
        running = FileRootKey(write(path, ONE))
        wrapped = await running.wrap(KEY, CONTEXT)
        remove(path)
        with pytest.raises(Misconfigured, match="keyturn key generate --root"):
            await running.health()
        assert await running.unwrap(wrapped, CONTEXT) == KEY

    async def test_the_right_id_with_the_wrong_key_is_refused(self, path: Path) -> None:
        wrapped = await FileRootKey(write(path, ONE)).wrap(KEY, CONTEXT)
        root = FileRootKey(write(path, TWO))
        with pytest.raises(IntegrityError):
            await root.unwrap(Wrapped(wrapped.blob, key_id(raw(TWO))), CONTEXT)


def raw_bytes(size: int) -> bytes:
    """Look random and be the same in every process: they name test cases."""
    return hashlib.shake_256(b"test").digest(size)


class TestReadingTheFile:
    def refused(self, path: Path) -> str:
        with pytest.raises(Misconfigured) as caught:
            FileRootKey(path)
        said = str(caught.value)
        if path.is_file():
            content = path.read_bytes()
            for line in content.splitlines():
                assert len(line) < 8 or line.decode("latin-1") not in said
        assert str(path) in said
        return said

    def test_a_missing_file_says_how_to_make_one(self, path: Path) -> None:
        assert "keyturn key generate --root" in self.refused(path)

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "\n\n",
            "# only a comment\n",
            "not base64 at all",
            ONE[:-1],
            ONE + "=",
            ONE + ONE,
            f"{ONE} {TWO}",
            f"{ONE} # a comment behind it",
            base64.b64encode(raw_bytes(31)).decode(),
            base64.b64encode(raw_bytes(33)).decode(),
            base64.urlsafe_b64encode(b"\xfb\xef\xbe" + raw_bytes(29)).decode(),
            raw_bytes(32).hex(),
            f"{ONE}\nbroken\n",
            f"\ufeff{ONE}",
        ],
        ids=ascii,
    )
    def test_anything_else_is_refused(self, path: Path, content: str) -> None:
        self.refused(write(path, content))

    def test_a_second_spelling_of_a_key_is_refused(self, path: Path) -> None:
        last = ONE[-2]
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        twin = ONE[:-2] + alphabet[alphabet.index(last) ^ 1] + "="
        assert raw(twin) == raw(ONE)
        self.refused(write(path, twin))

    def test_the_line_is_named(self, path: Path) -> None:
        assert "Line 3 " in self.refused(write(path, f"# one\n{ONE}\n{TWO[:40]}\n"))

    @pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
    def test_raw_bytes_of_another_length_are_refused(self, path: Path, length: int) -> None:
        self.refused(write(path, os.urandom(length)))

    @pytest.mark.parametrize(
        "content",
        [
            bytes(32),
            b"\xff" * 32,
            b"0123456789abcdef0123456789abcdef",
            b"correct horse battery staple 123",
            base64.b64encode(bytes(32)),
            base64.b64encode(b"correct horse battery staple 123"),
        ],
        ids=ascii,
    )
    def test_what_is_evidently_not_random_is_refused(self, path: Path, content: bytes) -> None:
        assert "not random" in self.refused(write(path, content))

    def test_a_huge_file_is_refused(self, path: Path) -> None:
        assert "too large" in self.refused(write(path, "#" * 65_537))
        FileRootKey(write(path, ONE + "\n" + "#" * (65_535 - len(ONE))))

    def test_a_directory_is_refused(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        assert "regular file" in self.refused(path)

    def test_a_pipe_is_refused_without_waiting_for_a_writer(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        assert "regular file" in self.refused(path)

    def test_a_link_to_a_good_file_is_read(self, path: Path, tmp_path: Path) -> None:
        """Kubernetes mounts a secret's files as links."""
        path.symlink_to(write(tmp_path / "target", ONE))
        FileRootKey(path)

    def test_a_link_to_an_open_file_is_refused(self, path: Path, tmp_path: Path) -> None:
        path.symlink_to(write(tmp_path / "target", ONE, 0o644))
        self.refused(path)


class TestProtection:
    @pytest.mark.parametrize("mode", [0o600, 0o400])
    def test_the_owners_file_is_read(self, path: Path, mode: int) -> None:
        FileRootKey(write(path, ONE, mode))

    @pytest.mark.parametrize("bits", [0o060, 0o020, 0o010, 0o004, 0o002, 0o001, 0o044, 0o077])
    def test_a_file_open_to_others_is_refused_with_the_recipe(self, path: Path, bits: int) -> None:
        write(path, ONE, 0o600 | bits)
        with pytest.raises(Misconfigured, match=f"chmod 600 {path}"):
            FileRootKey(path)

    def test_the_recipe_can_be_pasted(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a key; rm -rf ~", ONE, 0o666)
        with pytest.raises(Misconfigured, match=r"chmod 600 '.*a key; rm -rf ~'$"):
            FileRootKey(path)

    @pytest.mark.parametrize(
        ("mode", "owner", "reader"),
        [(0o440, 0, 1000), (0o640, 0, 1000), (0o600, 1000, 1000), (0o400, 0, 0)],
    )
    def test_a_group_may_read_what_root_gave_it(self, mode: int, owner: int, reader: int) -> None:
        """A systemd credential or a Kubernetes secret comes like that."""
        check_protection(Path("/run/key"), status(stat.S_IFREG | mode, owner), reader)

    @pytest.mark.parametrize(
        ("mode", "owner", "reader"),
        [
            (0o440, 1000, 1000),
            (0o640, 1001, 1000),
            (0o440, 0, 0),
            (0o460, 0, 1000),
            (0o420, 0, 1000),
            (0o450, 0, 1000),
            (0o444, 0, 1000),
            (0o404, 0, 1000),
        ],
    )
    def test_and_nothing_else(self, mode: int, owner: int, reader: int) -> None:
        with pytest.raises(Misconfigured, match="open to others"):
            check_protection(Path("/run/key"), status(stat.S_IFREG | mode, owner), reader)


def status(mode: int, owner: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))


class TestCreating:
    def test_what_was_created_is_read(self, path: Path) -> None:
        assert create(path) is True
        FileRootKey(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_whatever_the_umask(self, path: Path) -> None:
        before = os.umask(0)
        try:
            create(path)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_an_existing_file_is_left_alone(self, path: Path) -> None:
        write(path, ONE)
        assert create(path) is False
        assert path.read_text(encoding="ascii") == ONE

    def test_a_dangling_link_is_left_alone(self, path: Path, tmp_path: Path) -> None:
        path.symlink_to(tmp_path / "nowhere")
        assert create(path) is False
        assert not (tmp_path / "nowhere").exists()

    def test_nothing_is_left_behind(self, path: Path) -> None:
        create(path)
        create(path)
        assert list(path.parent.iterdir()) == [path]

    def test_two_files_hold_two_keys(self, tmp_path: Path) -> None:
        create(tmp_path / "one")
        create(tmp_path / "two")
        assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()

    def test_of_many_starters_one_wins_and_all_read_the_same_key(self, tmp_path: Path) -> None:
        starters = 16

        def start(path: Path, gate: threading.Barrier) -> tuple[bool, str]:
            gate.wait()
            made = create(path)
            return made, asyncio.run(FileRootKey(path).key_info()).current

        with ThreadPoolExecutor(starters) as pool:
            for attempt in range(20):
                path, gate = tmp_path / f"{attempt}.key", threading.Barrier(starters)
                ran = [pool.submit(start, path, gate) for _ in range(starters)]
                results = [one.result() for one in ran]
                assert sum(made for made, _ in results) == 1
                assert len({current for _, current in results}) == 1
        assert len(list(tmp_path.iterdir())) == 20

    def test_a_missing_directory_is_a_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(Misconfigured, match="cannot be made"):
            create(tmp_path / "missing" / "root.key")

    def test_a_line_is_a_key(self, path: Path) -> None:
        line = new_line(random=lambda size: raw(ONE)[:size])
        assert line == ONE
        FileRootKey(write(path, line))


class TestOpening:
    def test_a_file_by_its_uri(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a key", ONE)
        for uri in (f"file://{path}".replace(" ", "%20"), Secret(f"file://{path}")):
            assert isinstance(open_root_key(uri), FileRootKey)

    @pytest.mark.parametrize("make", [str, Secret])
    @pytest.mark.parametrize(
        "uri",
        [
            "",
            "hunter2",
            "hunter2://x",
            "aws://hunter2",
            "vault://:hunter2@vault/key",
            "\n",
            "file:///key hunter2 hunter2://x",
            "http://[hunter2",
            ONE,
        ],
    )
    def test_an_unknown_scheme_lists_the_known_ones_and_repeats_nothing(
        self, uri: str, make: Callable[[str], str | Secret]
    ) -> None:
        with pytest.raises(Misconfigured, match="file://") as caught:
            open_root_key(make(uri))
        assert "hunter2" not in str(caught.value)
        assert ONE not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @pytest.mark.parametrize(
        "uri",
        ["file:", "file://", "file:relative", "file://host/path", "file:///p?x=1", "file:///p#x"],
    )
    def test_a_file_has_an_absolute_path(self, uri: str) -> None:
        with pytest.raises(Misconfigured, match="file:///absolute/path"):
            open_root_key(uri)

    def test_an_address_of_this_host_is_no_path(self, path: Path) -> None:
        with pytest.raises(Misconfigured):
            open_root_key(f"file://localhost{write(path, ONE)}")

    @pytest.mark.parametrize(
        "uri",
        [
            "transit://:hunter2@vault.acme.com/transit/keyturn",
            "aws-kms://hunter2@arn:aws:kms:eu-west-1:111122223333:key/1",
            "file:///root.key azure://hunter2:x@v.vault.azure.net/keys/k",
        ],
    )
    def test_an_address_with_a_credential_is_refused_without_repeating_it(self, uri: str) -> None:
        with pytest.raises(Misconfigured, match="holds a credential") as caught:
            open_root_key(uri)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        ("uri", "missing", "extra"),
        [
            ("aws-kms://arn:aws:kms:eu-west-1:111122223333:key/1", "boto3", "aws"),
            ("transit://vault.acme.com/transit/keyturn", "hvac", "transit"),
            ("pkcs11:///lib.so?token=t&key=k", "pkcs11", "pkcs11"),
            ("gcp-kms://projects/p/locations/l/keyRings/r/cryptoKeys/k", "google.cloud", "gcp"),
            ("azure://v.vault.azure.net/keys/k", "azure.identity", "azure"),
        ],
    )
    def test_a_missing_library_is_a_sentence_that_names_the_extra(
        self, uri: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(sys.modules, f"vault.kms.{extra}", raising=False)
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(Misconfigured) as caught:
            open_root_key(uri)
        assert str(caught.value).endswith(f"pip install 'keyturn[{extra}]'.")

    def test_the_core_imports_no_vendors_library(self) -> None:
        """They take a second to import, and most people need none."""
        code = "import sys, broker.cli, vault.kms; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        loaded = set(done.stdout.decode().split())
        assert not loaded & {"boto3", "botocore", "hvac", "pkcs11", "google.cloud", "azure.core"}


class TestSeveral:
    async def test_the_first_wraps_and_all_unwrap(self, tmp_path: Path) -> None:
        old, new = write(tmp_path / "old", ONE).as_uri(), write(tmp_path / "new", TWO).as_uri()
        wrapped = await open_root_key(old).wrap(KEY, CONTEXT)
        both = open_root_key(Secret(f"{new}\n{old}\n"))
        assert await both.unwrap(wrapped, CONTEXT) == KEY
        assert (await both.wrap(KEY, CONTEXT)).root_key_id == key_id(raw(TWO))
        assert await both.key_info() == KeyInfo(
            key_id(raw(TWO)), (key_id(raw(TWO)), key_id(raw(ONE)))
        )

    async def test_an_older_one_wraps_where_it_is_named(self, tmp_path: Path) -> None:
        old, new = write(tmp_path / "old", ONE).as_uri(), write(tmp_path / "new", TWO).as_uri()
        wrapped = await open_root_key(f"{new} {old}").wrap(KEY, CONTEXT, key_id(raw(ONE)))
        assert await open_root_key(old).unwrap(wrapped, CONTEXT) == KEY

    async def test_a_lost_one_makes_all_of_them_unhealthy(self, tmp_path: Path) -> None:
        old, new = write(tmp_path / "old", ONE), write(tmp_path / "new", TWO)
        both = open_root_key(f"{new.as_uri()} {old.as_uri()}")
        await both.health()
        remove(old)
        with pytest.raises(Misconfigured, match="no root key file"):
            await both.health()

    async def test_one_that_is_away_leaves_the_question_open(self, path: Path) -> None:
        """Two servers may give different keys the same id; a blob of the one is not forged."""
        other = FileRootKey(write(path, ONE))
        wrapped = await other.wrap(KEY, CONTEXT)
        twin = Answering(IntegrityError("It does not fit."))
        assert await RootKeys([twin, other]).unwrap(wrapped, CONTEXT) == KEY
        with pytest.raises(NotReady):
            await RootKeys([twin, Answering(NotReady("Away."))]).unwrap(wrapped, CONTEXT)
        with pytest.raises(IntegrityError):
            await RootKeys([Answering(RootKeyUnknown()), twin]).unwrap(wrapped, CONTEXT)
        with pytest.raises(RootKeyDisabled):
            await RootKeys([Answering(RootKeyDisabled()), other]).unwrap(wrapped, CONTEXT)

    def test_the_kinds_are_told_and_nothing_else(self) -> None:
        uris = Secret("aws-kms://arn:aws:kms:x:111122223333:key/1 file:///hunter2")
        assert kinds_of(uris) == ["aws-kms", "file"]

    def test_a_transit_server_is_out_of_the_workspaces_reach(self) -> None:
        uris = "transit://Bao.internal/transit/k transit://[::1]:8100/transit/k?tls=off file:///k"
        assert own_services(uris) == [("bao.internal", 8200), ("::1", 8100)]


class Answering:
    """A root key that is a stranger's: it unwraps nothing, and says so in one way."""

    def __init__(self, answer: VaultError) -> None:
        self._answer = answer

    async def wrap(self, key: bytes, context: WrapContext, by: str | None = None) -> Wrapped:
        raise self._about(key, context, by)

    async def unwrap(self, wrapped: Wrapped, context: WrapContext) -> bytes:
        raise self._about(wrapped, context)

    async def key_info(self) -> KeyInfo:
        raise self._answer

    async def health(self) -> None:
        raise self._answer

    def _about(self, *_: object) -> VaultError:
        return self._answer


class TestSeveralKeepTheContract(RootKeyContract):
    @pytest.fixture
    def root(self, tmp_path: Path) -> RootKey:
        old, new = write(tmp_path / "old", ONE).as_uri(), write(tmp_path / "new", TWO).as_uri()
        return open_root_key(f"{new} {old}")
