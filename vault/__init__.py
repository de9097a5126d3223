"""The vault keeps people's credentials, and keeps them alive.

What it promises:

* Nothing that grants access is stored in clear: every value is sealed under its workspace's own
  key, bound to the row it belongs to, and that key is wrapped by a root key outside the database.
* There is one door, ``vault.vault.Vault``. Each of its methods takes a ``Caller`` and asks
  ``vault.access`` whether that caller may; every change, and every credential that is given away,
  writes its audit row in the same transaction.
* A workspace sees its own rows only: by every WHERE, by row-level security, and by its key.

The map, in the order of imports (a module imports only what stands above it):

errors, secret, model, settings       words
seal, bearer, kms, keyring            bytes and keys
database, embedded, sql, migrations   PostgreSQL
egress                                outbound HTTP
providers                             the catalogue: facts about other people's servers
oauth, lifecycle                      what may be said, and what follows from what: pure
dialogue                              what is said between us and a provider
audit, events, store                  rows
refreshing                            one refresh of a connection at a time
access                                who may do what
vault                                 the door

It knows no web framework; ``broker`` does.
"""

__version__ = "0.1.0"
