"""Where a network runs: one folder per chip."""
