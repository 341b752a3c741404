"""The transparency log: entries, proofs, checkpoints."""
