"""The credential-injecting proxy: a conversation calls an API, and never sees the token."""
