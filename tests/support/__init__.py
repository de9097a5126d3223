"""What the tests share: the real parts, started once, and a client to talk to them."""
