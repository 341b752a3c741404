"""The agent beside a switchboard: recordings in a directory are pushed, and removed only against receipts.

Needs no database, keyring or settings of the service: an address, a token and a directory. See
docs/spool-agent.md.
"""
