"""The demonstration: spoken calls, pushed through the service's own HTTP API on a first start."""
