"""The operator reads, verifies and exports the record from a terminal; what is exported holds up
without us.
"""

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
from click.testing import CliRunner, Result
from support.recording import Record, sealed_long_ago

from broker import boot, settings
from broker.cli import main
from broker.doctor import examine

NOT_WELL: Final = 3
PAGE: Final = Path(__file__).resolve().parents[2] / "docs/reference/audit.md"


def environ(record: Record) -> dict[str, str]:
    return {
        "KEYTURN_MODE": "development",
        "KEYTURN_DATABASE_URL": record.over.address("keyturn_app"),
        "KEYTURN_WORKER_DATABASE_URL": record.over.address("keyturn_worker"),
        "KEYTURN_KEK": record.over.root_key_file.as_uri(),
        "KEYTURN_SPOOL_DIR": str(record.over.spool),
    }


async def keyturn(record: Record, *words: str) -> Result:
    """Run a command in this process, whose own logging goes on as before."""

    def invoke() -> Result:
        root = logging.getLogger()
        handlers, level, structured = root.handlers, root.level, structlog.get_config()
        kept = {name: None for name in os.environ if name.startswith("KEYTURN_")}
        try:
            return CliRunner().invoke(main, list(words), env={**kept, **environ(record)})
        finally:
            root.handlers = handlers
            root.setLevel(level)
            structlog.configure(**structured)

    done = await asyncio.to_thread(invoke)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def checked(exported: str) -> int:
    """Run the program that docs/reference/audit.md has; returns how many lines it found well."""
    [program] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program], input=exported, capture_output=True, text=True, check=False
    )
    return int(done.stdout.split()[0]) if done.returncode == 0 else -1


def rows(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


async def test_the_record_is_listed_verified_and_exported(record: Record) -> None:
    await record.batches_of(3, 2)
    await record.write(1)
    for words in (("audit",), ("audit", "list")):
        listed = await keyturn(record, *words, "--json", "--limit", "4")
        assert len(json.loads(listed.stdout)) == 4

    verified = await keyturn(record, "audit", "verify")
    assert (verified.exit_code, verified.stdout.splitlines()[-1]) == (
        0,
        "everything is as it was written",
    )
    well = json.loads((await keyturn(record, "audit", "verify", "--json")).stdout)
    assert (well["well"], well["batches"], well["lines"], well["unsealed"]) == (True, 4, 8, 1)
    assert well["anchors"] == [str(record.anchor_file)]
    assert well["end"] in verified.stdout

    done = await keyturn(record, "audit", "export")
    assert checked(done.stdout) == 8
    assert checked(done.stdout.replace("key.create", "key.delete", 1)) == -1
    out = rows(done)
    # That somebody exports is on the record, and so goes along.
    unsealed = [one for one in out if one["kind"] == "line" and one["batch"] is None]
    assert sorted(one["action"] for one in unsealed) == ["chain.export", "key.create"]
    assert {one["kind"] for one in out} == {"line", "batch", "seal"}


async def test_what_was_deleted_for_its_age_is_counted_and_the_export_holds_up_without_it(
    record: Record,
) -> None:
    await sealed_long_ago(record, 3, 2)
    await record.write(4)
    await record.seal()
    assert await record.vault.forget_audit(400) == 8
    verified = await keyturn(record, "audit", "verify")
    assert verified.exit_code == 0
    assert "8 lines were deleted for their age" in verified.stdout
    assert json.loads((await keyturn(record, "audit", "verify", "--json")).stdout)["forgotten"] == 8
    await record.seal()
    done = await keyturn(record, "audit", "export")
    assert checked(done.stdout) == 4 + 1
    assert checked(done.stdout.replace("key.create", "key.delete", 1)) == -1


@pytest.mark.parametrize(("days", "gone"), [("400", 6), ("600", 0), ("0", 0)])
async def test_the_service_deletes_by_itself_what_its_setting_says(
    record: Record, days: str, gone: int
) -> None:
    await sealed_long_ago(record, 3)
    await record.write(1)
    await record.seal()
    told = settings.load({**environ(record), "KEYTURN_AUDIT_DAYS": days})
    async with boot.house(told) as house:
        [job] = [one for one in boot.jobs(house) if one.name == "old_audit"]
        assert await job.work() == gone


async def test_one_workspaces_record_names_no_other(record: Record) -> None:
    other = await record.another_workspace()
    await record.batches_of(2)
    done = await keyturn(record, "audit", "export", "--workspace", "another")
    assert checked(done.stdout) == 2
    out = rows(done)
    assert {one["workspace"] for one in out} == {other.workspace}
    assert {one["kind"] for one in out} == {"line", "batch"}
    assert record.workspace not in json.dumps(out)
    named = await keyturn(record, "audit", "verify", "--workspace", record.workspace, "--json")
    assert json.loads(named.stdout)["chains"] == 1


async def test_a_part_of_time_goes_out_in_whole_batches(record: Record) -> None:
    await record.batches_of(2)
    early = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "+0000")
    await record.write(2)
    await record.seal()
    words = ("audit", "export", "--workspace", record.workspace)
    since = rows(await keyturn(record, *words, "--since", early))
    until = rows(await keyturn(record, *words, "--until", early))
    assert [one["batch"] for one in since if one["kind"] == "batch"] == [3]
    assert [one["batch"] for one in until if one["kind"] == "batch"] == [1, 2]


async def test_verifying_names_the_first_bad_batch_with_exit_code_3(record: Record) -> None:
    await record.batches_of(2, 2)
    await record.execute(
        "delete from vault.audit_events where event_id = $1", await record.event(2)
    )
    done = await keyturn(record, "audit", "verify")
    assert done.exit_code == NOT_WELL
    assert f"{record.workspace}: 1 of the lines were removed from batch 2." in done.stdout
    told = await keyturn(record, "audit", "verify", "--json")
    assert (told.exit_code, json.loads(told.stdout)["problems"]) == (
        NOT_WELL,
        [
            {
                "workspace": record.workspace,
                "batch": 2,
                "text": "1 of the lines were removed from batch 2.",
            }
        ],
    )


async def test_a_seal_from_the_log_has_to_be_there(record: Record) -> None:
    await record.batches_of(2)
    end = json.loads((await keyturn(record, "audit", "verify", "--json")).stdout)["end"]
    assert (await keyturn(record, "audit", "verify", "--seal", end)).exit_code == 0
    forged = f"{end.partition(':')[0]}:{'0' * 64}"
    assert (await keyturn(record, "audit", "verify", "--seal", forged)).exit_code == NOT_WELL
    assert (await keyturn(record, "audit", "verify", "--seal", "12")).exit_code == 2


async def test_doctor_says_how_the_record_fares(record: Record) -> None:
    async def finding() -> tuple[bool, bool, str]:
        [one] = [one for one in await examine(environ(record)) if one.name == "audit record"]
        return one.ok, one.warning, one.text

    await record.batches_of(2)
    ok, warning, text = await finding()
    assert (ok, warning) == (True, False)
    # A folder of our own beside the root key, which only we can write, is one more place.
    assert text.startswith("it is sealed; its end is written down in ")
    assert str(record.over.spool) in text
    await record.write(1)
    await record.execute("update vault.audit_events set at = at - interval '20 minutes'")
    ok, warning, text = await finding()
    assert (ok, warning) == (True, True)
    assert text.startswith("lines that wait to be sealed: 1, for 12")
    await record.execute("delete from vault.audit_seals where number = 2")
    ok, _, text = await finding()
    assert not ok
    assert "lacks seal 2" in text
    anchored = await keyturn(record, "audit", "anchor", "--yes")
    assert anchored.stdout.startswith("anchored seal ")
    assert (await finding())[0]
