"""A stand-in for ElevenLabs Agents: their HTTP, their WebSocket, their calls to your tools.

It answers below ``/v1`` of the sandbox's port, behind any prefix, so that an unmodified SDK works
with ``base_url`` pointed here. What it does is what ``https://api.elevenlabs.io`` does; where that
is not documented, ``Behaviour`` lets you choose.

* Workspaces, environments, environment variables, secrets, auth connections, agents, tools, MCP
  servers, phone numbers, webhooks, settings: kept in memory, by API key. ``sandbox`` is a key from
  the start.
* Signed URLs, tokens, and the conversation's WebSocket. The model's part is a script; without one
  the agent repeats what it hears. WebRTC ends at the signalling: there is no media.
* Tool calls are really made, with their headers, auth connections, assignments and ``sanitize``.
* Telephone: calls out, batches, and calls in with the pre-call webhook; after a conversation the
  signed webhook.
* A leak detector: a ``secret__`` value in a URL, a body, a prompt, a transcript, or in anything
  that a client or a model sees, ends the conversation and is listed. A test asks once, at its end.

The knobs, below ``/_sandbox/elevenlabs``; those of a workspace take its ``xi-api-key``:

* ``POST /workspaces`` ``{"api_key"?}``: open a workspace.
* ``PUT /agents/{id}``: an agent under an id of your choice; ``PUT /agents/{id}/script``: what it
  does when it hears something, see ``Rule``.
* ``POST /tool-call`` ``{"conversation_id", "tool", "arguments"?}``: the agent calls a tool.
* ``POST /say`` ``{"conversation_id", "text"}``: the user says something.
* ``POST /inbound`` ``{"caller_id", "called_number", "call_sid"?}``: somebody calls.
* ``POST /end`` ``{"conversation_id", "webhook"?}``: it ends; see ``Delivering``. ``POST /settle``
  waits for what follows by itself.
* ``PUT /behaviour``, ``PUT`` and ``DELETE /socket-faults``: see ``Behaviour``, ``SocketFaults``.
  Faults of HTTP are the sandbox's own: ``PUT /_sandbox/faults`` with a ``path``.
* ``PUT /reroutes`` ``{origin: origin}``: where calls to an address really go.
* ``PUT /watched`` ``{name: value}``: values that no request may hold.
* ``POST /clock`` ``{"seconds"}``: put the clock forward.
* ``GET`` and ``DELETE /leaks``, ``/requests``; ``GET /conversations/{id}``: what there is to see.
  Credentials are fingerprints there: ``POST /_sandbox/fingerprint`` says which is whose.
"""
