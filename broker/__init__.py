"""The broker is the service: it speaks HTTP, and turns credentials into conversations.

It uses the vault through its one door and decides nothing about access itself.

The map, in the order of imports (a module imports only what stands above it):

settings, logs, metrics     what every request needs
api                         routes, wire structs, problems
web                         pages that people see
boot                        settings -> database, root key, vault
app                         composition root: vault -> Litestar
server                      uvicorn, and a drain that drops nothing
cli                         the same door from a terminal
"""

import gc

# Python looks for cycles after each 700 new objects. An import makes nothing else, for a fifth of a
# command's time, and neither do hundreds of requests under way; it would find nothing.
gc.set_threshold(10_000, 20, 50)
