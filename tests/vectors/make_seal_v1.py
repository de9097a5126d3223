"""Make the frozen vectors of format 1. They were made once: this refuses to replace them.

Every input is fixed, so anybody can make the same files again and compare.
What a released version has sealed must open for ever: when a vector fails, the code is wrong.
"""

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Callable
from itertools import starmap
from pathlib import Path
from typing import Any

import msgspec

from vault import bearer, seal
from vault.errors import IntegrityError
from vault.kms import WrapContext
from vault.kms.file import FileRootKey, key_id

HERE = Path(__file__).parent
Vector = dict[str, Any]

PLACE: Vector = {
    "workspace": "wsp_ada",
    "table": "connection",
    "row": "con_1",
    "field": "tokens",
    "generation": 1,
    "environment": "production",
}


def fixed(label: str, size: int) -> bytes:
    """Bytes that look random and that anybody can compute."""
    return hashlib.shake_256(b"keyturn vector: " + label.encode()).digest(size)


def given(value: bytes) -> Callable[[int], bytes]:
    return lambda _size: value


def sealing_key(vector: Vector) -> seal.SealingKey:
    key = seal.SealingKey.from_workspace_key(
        bytes.fromhex(vector["key_id"]), bytes.fromhex(vector["workspace_key"])
    )
    return key.for_user(bytes.fromhex(vector["user_key"])) if vector["user_key"] else key


def context(vector: Vector) -> seal.Context:
    return seal.Context(**vector["context"])


def valid(name: str, plaintext: bytes, *, user: bool = False, **place: str | int) -> Vector:
    vector: Vector = {
        "name": name,
        "key_id": fixed(f"{name}: key id", 16).hex(),
        "workspace_key": fixed(f"{name}: workspace key", 32).hex(),
        "user_key": fixed(f"{name}: user key", 32).hex() if user else "",
        "context": PLACE | place,
        "salt": fixed(f"{name}: salt", 16).hex(),
        "nonce": fixed(f"{name}: nonce", 12).hex(),
    }
    fresh = bytes.fromhex(vector["salt"] + vector["nonce"])
    key = sealing_key(vector)
    record_key, commitment = key.record_keys(fresh[:16])
    sealed = seal.seal(key, context(vector), plaintext, random=given(fresh))
    vector |= {"record_key": record_key.hex(), "commitment": commitment.hex()}
    if len(plaintext) <= 1024:
        return vector | {"plaintext": plaintext.hex(), "sealed": sealed.hex()}
    # A long plaintext is shake_256("keyturn vector: <name>"); the file stays readable.
    return vector | {
        "plaintext_size": len(plaintext),
        "plaintext_sha256": hashlib.sha256(plaintext).hexdigest(),
        "sealed_sha256": hashlib.sha256(sealed).hexdigest(),
    }


def all_valid() -> list[Vector]:
    return [
        valid("a workspace's row", b'{"client_secret":"s3cr3t"}', environment=""),
        valid("an environment's row", b'{"client_secret":"s3cr3t"}', environment="staging"),
        valid("a user's row", b'{"access_token":"ya29.a0","refresh_token":"1//0g"}', user=True),
        valid("an empty plaintext", b""),
        valid("one block", bytes(range(16))),
        valid("binary", bytes(range(256)), user=True),
        valid("the first generation", b"x", generation=0),
        valid("the last generation", b"x", generation=2**64 - 1, user=True),
        valid("ids in Unicode", b"x", workspace="wsp_žluťoučký", row="con_日本語", field="🔑"),
        valid("a long field", b"x", field="f" * 1000),
        valid("an empty row", b"x", row="", field=""),
        valid("64 kB", fixed("64 kB", 65_536), user=True),
    ]


def refused(name: str, vector: Vector, sealed: bytes, error: type[IntegrityError]) -> Vector:
    kept = {key: vector[key] for key in ("key_id", "workspace_key", "user_key", "context")}
    return {"name": name, **kept, "sealed": sealed.hex(), "error": error.__name__}


def all_refused() -> list[Vector]:
    base = valid("refused", b"never to be seen", user=True)
    return [*_refused_bytes(base), *_refused_places(base), *_refused_keys(base)]


def _refused_bytes(base: Vector) -> list[Vector]:
    whole = bytes.fromhex(base["sealed"])
    cases = {
        "nothing": b"",
        "version 0": b"\x00" + whole[1:],
        "version 2": b"\x02" + whole[1:],
        "only the version": whole[:1],
        "cut in the key id": whole[:16],
        "cut before the tag": whole[:92],
        "cut by one byte": whole[:-1],
        "one byte more": whole + b"\x00",
        "twice": whole + whole,
        "salt changed": _flip(whole, 17),
        "commitment changed": _flip(whole, 33),
        "commitment of zeros": whole[:33] + bytes(32) + whole[65:],
        "nonce changed": _flip(whole, 65),
        "ciphertext changed": _flip(whole, 77),
        "tag changed": _flip(whole, len(whole) - 1),
    }
    refusals = [refused(name, base, sealed, IntegrityError) for name, sealed in cases.items()]
    return [*refusals, refused("key id changed", base, _flip(whole, 1), seal.UnknownKey)]


def _refused_places(base: Vector) -> list[Vector]:
    whole = bytes.fromhex(base["sealed"])
    moves: Vector = {
        "workspace": "wsp_bob",
        "table": "integration",
        "row": "con_2",
        "field": "secret",
        "generation": 2,
        "environment": "staging",
    }
    moved = [
        (f"another {name}", base | {"context": base["context"] | {name: value}})
        for name, value in moves.items()
    ]
    shifted = base["context"] | {"table": "connectio", "row": "ncon_1"}
    everywhere = base["context"] | {"environment": ""}
    moved += [
        ("a letter moved to the next part", base | {"context": shifted}),
        ("no environment", base | {"context": everywhere}),
    ]
    return [refused(name, vector, whole, IntegrityError) for name, vector in moved]


def _refused_keys(base: Vector) -> list[Vector]:
    whole = bytes.fromhex(base["sealed"])
    other = fixed("refused: other key", 32).hex()
    plain = valid("refused: no user", b"never to be seen")
    plain_sealed = bytes.fromhex(plain["sealed"])
    cases = [
        ("another workspace key under this id", base | {"workspace_key": other}, whole),
        ("another user's key", base | {"user_key": other}, whole),
        ("without the user's key", base | {"user_key": ""}, whole),
        ("a workspace's row with a user's key", plain | {"user_key": other}, plain_sealed),
    ]
    refusals = list(starmap(_refused_integrity, cases))
    other_id = base | {"key_id": fixed("refused: other id", 16).hex()}
    return [*refusals, refused("another key id asked", other_id, whole, seal.UnknownKey)]


def _refused_integrity(name: str, vector: Vector, sealed: bytes) -> Vector:
    return refused(name, vector, sealed, IntegrityError)


def _flip(sealed: bytes, at: int) -> bytes:
    return sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]


def all_blind_indexes() -> list[Vector]:
    index_key = fixed("blind index key", 32)
    cases = [("email", "ada@example.com"), ("name", "Zoë"), ("name", "Zoe\u0308"), ("", "")]
    return [
        {
            "index_key": index_key.hex(),
            "field": field,
            "value": value,
            "index": seal.blind_index(seal.Keyed(index_key), field, value).hex(),
        }
        for field, value in cases
    ]


def all_wrapped() -> list[Vector]:
    return [
        _wrapped("a workspace key", workspace="wsp_ada", key_id=fixed("id", 16).hex()),
        _wrapped("the pepper", purpose="pepper"),
    ]


def _wrapped(name: str, **kept: str) -> Vector:
    root_key, key = fixed(f"{name}: root key", 32), fixed(f"{name}: key", 32)
    wrap_context = WrapContext(**({"deployment_id": "dep_1", "purpose": "workspace-key"} | kept))
    nonce = fixed(f"{name}: nonce", 12)
    with tempfile.NamedTemporaryFile() as file:
        file.write(root_key)
        file.flush()
        root = FileRootKey(file.name, random=given(nonce))
    wrapped = asyncio.run(root.wrap(key, wrap_context))
    return {
        "name": name,
        "root_key": root_key.hex(),
        "root_key_id": key_id(root_key),
        "context": msgspec.structs.asdict(wrap_context),
        "canonical": wrap_context.canonical().hex(),
        "key": key.hex(),
        "blob": wrapped.blob.hex(),
    }


def all_bearers() -> list[Vector]:
    randoms = [bytes(32), b"\xff" * 32, fixed("bearer", 32)]
    pepper = fixed("pepper", 32)
    vectors = []
    for kind in bearer.PREFIXES:
        for random in randoms:
            text = bearer.generate(kind, random=given(random)).reveal()
            kept = {"kind": kind, "random": random.hex(), "bearer": text}
            fingerprint = bearer.fingerprint(pepper, text).hex()
            vectors.append(kept | {"pepper": pepper.hex(), "fingerprint": fingerprint})
    return vectors


def build() -> dict[str, Any]:
    return {
        "seal_v1.json": {
            "format": "keyturn/1",
            "sealed": all_valid(),
            "refused": all_refused(),
            "blind_index": all_blind_indexes(),
        },
        "wrap_v1.json": {"format": "keyturn/wrap/1", "wrapped": all_wrapped()},
        "bearer_v1.json": {"bearers": all_bearers()},
    }


def main() -> None:
    for name, content in build().items():
        with (HERE / name).open("x", encoding="utf-8") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
