"""Whether every recording that should be here is here: outcomes, placeholders, gaps."""
