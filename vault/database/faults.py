"""What the server's errors mean, in our words: nothing of the driver's text, which quotes values.

A text that PostgreSQL cannot keep is the one fault of these that is whoever's who sent it: it may
come in by any field, so it is told from the others here, behind all of them.
"""

from typing import Any, Final

import asyncpg
import structlog

from vault.errors import Conflict, Invalid, Misconfigured, NotReady, VaultError

AWAY: Final = {
    "25006": "The database takes no writes right now.",
    "53100": "The database's disk is full.",
    "53200": "The database is out of memory.",
    "53300": "The database has no connection left.",
    "57014": "The database took too long.",
    "57P01": "The database is restarting.",
    "57P02": "The database is restarting.",
    "57P03": "The database is starting.",
}
READ_ONLY: Final = "25006"

_UNKNOWN_STATEMENT: Final = {"26000", "42P05"}
# A NUL, the one character that it keeps nowhere: in a text, and in a text of a JSON document.
_NO_TEXT: Final = {"22021", "22P05"}

_log = structlog.get_logger("keyturn.database")


def _is_away(error: Any) -> bool:
    return error.sqlstate in AWAY or isinstance(error, asyncpg.PostgresConnectionError)


def translated(error: Any) -> VaultError:
    """Say what happened without the driver's text, which quotes rows and values."""
    sqlstate = error.sqlstate or ""
    if _is_away(error):
        return NotReady(AWAY.get(sqlstate, "The database cannot be reached."), retry_after=2)
    if sqlstate.startswith("23"):
        return Conflict(f"The change breaks the rule {error.constraint_name or sqlstate}.")
    if sqlstate in _NO_TEXT:
        return Invalid("A text holds a character that cannot be kept.")
    if sqlstate in _UNKNOWN_STATEMENT:
        _log.error("database_statement_lost", hint="set KEYTURN_STATEMENT_CACHE=0")
        return VaultError("The pooler in front of the database loses prepared statements.")
    _log.error("database_error", sqlstate=sqlstate, constraint=error.constraint_name)
    return VaultError(f"The database refused a statement (SQLSTATE {sqlstate}).")


def cannot_connect(error: Exception) -> VaultError:
    """Say why there is no connection; what only the operator can mend as what it is."""
    if isinstance(error, asyncpg.PostgresError) and not _is_away(error):
        return Misconfigured(f"The database refuses the login (SQLSTATE {error.sqlstate}).")
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return Misconfigured("KEYTURN_DATABASE_URL is not a PostgreSQL address.")
    return NotReady("The database cannot be reached.")
