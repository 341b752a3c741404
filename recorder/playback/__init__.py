"""Hearing a recording: ranges, renditions, listens, links."""
