"""What sealing costs over bare AES-GCM with a key at hand, in one thread of this process.

The floor is one ``AESGCM`` object used again and again, with associated data of the length that
the format has. ``derive`` is the record's own key, which is most of the difference: it is what
makes a repeated nonce harmless and a record open under one key only.
"""

import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.load import WrongAnswers
from bench.report import Column, Options, Outcome, Pair, Round, interleaved
from bench.suite.benchmark import Benchmark
from vault.seal import (
    COMMITMENT_SIZE,
    KEY_ID_SIZE,
    KEY_SIZE,
    NONCE_SIZE,
    SALT_SIZE,
    Context,
    SealingKey,
    open_sealed,
    seal,
)

ROUNDS: Final = 7
REPEATS: Final = 20_000
QUICK_REPEATS: Final = 1_000
SIZES: Final = {"0.3 kB": 300, "1.5 kB": 1500}
ASSOCIATED: Final = 180  # bytes, about what the format authenticates

CONTEXT: Final = Context(
    workspace="ws_01k6zj3m8q0v5w7x9y1a2b3c4d",
    table="connections",
    row="user-0123456789",
    field="tokens",
    generation=7,
    environment="production",
)


async def run(options: Options) -> Outcome:
    """Measure seal, open and their floors, for two sizes."""
    repeats = QUICK_REPEATS if options.quick else REPEATS
    subjects = {"derive": _timed(_derive(), repeats)}
    pairs = []
    for size, length in SIZES.items():
        for name, work in _works(length).items():
            subjects[f"{name} {size}"] = _timed(work, repeats)
        for deed, floor in (("seal", "AESGCM encrypt"), ("open", "AESGCM decrypt")):
            pairs.append(Pair(f"{deed} {size}", f"{floor} {size}"))
    return Outcome(
        name="crypto",
        notes=[f"one thread, {repeats} operations a round; encrypting includes urandom"],
        columns=[Column("cpu_us", "CPU us", 2)],
        rounds=await interleaved(options.rounds_or(ROUNDS), subjects),
        pairs=pairs,
        gauge="cpu_us",
    )


def _works(length: int) -> dict[str, Callable[[], object]]:
    plaintext = os.urandom(length)
    key, bare = _sealing_key(), AESGCM(os.urandom(KEY_SIZE))
    sealed = seal(key, CONTEXT, plaintext)
    associated, nonce = os.urandom(ASSOCIATED), os.urandom(NONCE_SIZE)
    encrypted = bare.encrypt(nonce, plaintext, associated)
    if open_sealed(key, CONTEXT, sealed) != plaintext:
        raise WrongAnswers("crypto: what was sealed did not come back")
    return {
        "AESGCM encrypt": lambda: bare.encrypt(os.urandom(NONCE_SIZE), plaintext, associated),
        "seal": lambda: seal(key, CONTEXT, plaintext),
        "AESGCM decrypt": lambda: bare.decrypt(nonce, encrypted, associated),
        "open": lambda: open_sealed(key, CONTEXT, sealed),
    }


def _derive() -> Callable[[], object]:
    key, salt = _sealing_key(), os.urandom(SALT_SIZE)
    if len(key.record_keys(salt)[1]) != COMMITMENT_SIZE:
        raise WrongAnswers("crypto: a record's keys have another form")
    return lambda: key.record_keys(salt)


def _sealing_key() -> SealingKey:
    return SealingKey.from_workspace_key(os.urandom(KEY_ID_SIZE), os.urandom(KEY_SIZE))


def _timed(work: Callable[[], object], repeats: int) -> Callable[[], Awaitable[Round]]:
    async def measure() -> Round:
        began = time.thread_time_ns()
        for _ in range(repeats):
            work()
        return {"cpu_us": (time.thread_time_ns() - began) / repeats / 1000}

    return measure


BENCHMARK: Final = Benchmark("crypto", "sealing and opening, against bare AES-GCM", run)
