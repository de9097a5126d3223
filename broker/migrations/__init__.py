"""The broker's part of the schema: what conversations need, beside what the vault keeps.

* Files as in ``vault/migrations``, with numbers of their own; the vault's runner applies them,
  after the vault's.
* ``PARTS`` is what everybody passes who migrates, or asks whether the schema is current.
"""

from typing import Final

PARTS: Final = ("vault", "broker")
