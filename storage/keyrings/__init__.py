"""Keepers of the key-encryption keys: a file (the embedded default) and, for tests, memory."""
