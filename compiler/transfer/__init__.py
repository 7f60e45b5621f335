"""Transfer: a direct-coded spiking network becomes one that reads events."""
