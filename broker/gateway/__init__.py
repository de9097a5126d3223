"""The credential-injecting proxy: a conversation calls a provider's API, and never sees the token."""
