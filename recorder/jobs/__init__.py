"""Background work: the queue, the workers, the clock."""
