"""Which core holds which layer: the best assignment, found exactly, or every reason why there is none."""
