"""Assessing calls for quality."""
