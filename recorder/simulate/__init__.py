"""Realistic senders of each kind, to prove a path before the telephony is switched over, and to load it.

They need an address, a source's token and nothing else of the service; see docs/simulate.md.
"""
