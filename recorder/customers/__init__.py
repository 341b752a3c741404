"""Customer records, contacts, choices, and matching calls to customers."""
