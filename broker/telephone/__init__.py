"""Calls: in, out, their end, and the numbers that they come to.

* A call's credentials go from us to ElevenLabs and pass through nobody else: there is no client.
* In which environment a call runs: as whoever asks for it says, else as its number does, else
  production. It is always said aloud to ElevenLabs, so that no other setting can lead elsewhere.
"""
