"""How a connection lives: what may happen to its tokens, when, and what may be handed out. Pure.

* No I/O, no clock, no chance: every function takes the time (the database's) and the luck (0 to 1)
  that it needs, and gives back a new value. What happened can be replayed.
* ``machine`` is the heart: ``step(life, event, terms)`` says what the connection is now and what
  has to be done; the caller stores the one and does the other, in one transaction.
* ``docs/reference/states.md`` draws it, and says how long everything takes.

| module | says |
|---|---|
| ``terms`` | what a provider's facts mean for its connections |
| ``life``, ``events``, ``intents`` | what is remembered, what happens, what has to be done |
| ``machine``, ``takeover`` | what follows from what; when somebody else may call |
| ``clocks``, ``schedule`` | when tokens end; when to look at a connection next |
| ``handout`` | what may be handed out now |
| ``turns`` | who comes first, where not all can |
| ``standing`` | an integration: open, held after a mass of refusals, paused |
| ``endpoint`` | a token endpoint: the sum of the following |
| ``backoff``, ``rate``, ``breaker``, ``retries``, ``window`` | how hard an endpoint is pressed |
"""
