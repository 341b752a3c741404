"""Resumable uploads (tus 1.0.0): what arrived is kept, sealed, until the whole of it is a recording."""
