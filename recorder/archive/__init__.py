"""Bringing what was recorded before out of a folder or a bucket; moving to another store."""
