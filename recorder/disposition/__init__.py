"""Retention applied: facts, windows, holds, sweeps, erasures, certificates."""
