"""``keyturn demo``: the whole story on one machine, told line by line, with nothing left behind.

* A service, a PostgreSQL and a sandbox start on free ports, in a temporary folder; no setting but
  ``KEYTURN_PG_BINDIR`` is read, and nothing outside this machine is called.
* Everything goes over HTTP and WebSocket, as a platform, a browser and an agent would do it.
* No secret is shown: of a token at most the last four characters of its hash.
* A step that does not do what it should says what was expected, and ends the story.
* Whatever ends it (its end, a failure, Ctrl-C, SIGTERM), everything is stopped and removed.
"""

import asyncio
import signal
from pathlib import Path
from typing import Final

from broker.demo.stage import staged
from broker.demo.story import tell
from broker.demo.transcript import Lines, Transcript
from broker.demo.world import Unexpected
from broker.sandbox import Sandbox
from vault.errors import VaultError

__all__ = ["Lines", "Transcript", "Unexpected", "perform", "play"]

DONE: Final = 0
FAILED: Final = 1
STOPPED: Final = 130


async def perform(transcript: Transcript, sandbox: Sandbox | None = None) -> int:
    """Tell the story to whoever is at the terminal, in a program of its own; the exit code."""
    story = asyncio.create_task(play(transcript, sandbox or Sandbox()))
    for one in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(one, story.cancel)
    try:
        await story
    except asyncio.CancelledError:
        transcript.note("Stopped: nothing is left running, and nothing on the disk.")
        return STOPPED
    except Unexpected as unexpected:
        transcript.failed(str(unexpected))
        return FAILED
    except VaultError as error:
        transcript.failed(error.message)
        return FAILED
    except BrokenPipeError:
        raise  # nobody reads on; the command line ends quietly
    except Exception as error:  # noqa: BLE001 - its text may hold an answer, and so a secret
        transcript.failed(f"expected no error, found {_place(error)}")
        return FAILED
    return DONE


async def play(transcript: Transcript, sandbox: Sandbox) -> None:
    """Tell it from its beginning to its end, or raise what went wrong."""
    transcript.note("Starting a service, its database and a sandbox ...")
    async with staged(sandbox) as world:
        await tell(world, transcript)
    transcript.note("That was all: everything is stopped, and removed.")


def _place(error: Exception) -> str:
    """What kind of error, and where: enough to report it."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}" if at else "nowhere"
    return f"{type(error).__name__} at {where}"
