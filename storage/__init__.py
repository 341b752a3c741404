"""Bytes in, verified bytes out: sealing, keys and object stores."""
