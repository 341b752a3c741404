"""The recording service: everything with identity, SQL or HTTP."""
