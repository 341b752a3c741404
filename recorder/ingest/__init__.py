"""From a push to a stored recording."""
