"""The broker's door: what turns credentials into conversations is a method of ``Broker``.

* Each method takes a ``Caller`` and asks ``vault.access`` first. One that changes something leaves
  its line in the audit record in the transaction of the deed.
* It reaches a credential through the vault's door alone, and keeps its own rows as a guest there.
"""

from vault.egress import Egress
from vault.vault import Vault


class Broker:
    """Gives each conversation the credentials that it needs."""

    def __init__(self, vault: Vault, egress: Egress) -> None:
        self._vault = vault
        self._egress = egress
