"""Decisions about time, and the protocol of erasure."""
