"""Stands in for Intel's profiler: it has two probes, and tells numbers of its own making."""

import numpy as np


class Loihi2HWProfiler:
    """Execution time and energy; activity and memory are missing, as on some systems."""

    def __init__(self, run_cfg):
        self.run_cfg = run_cfg
        self.steps = 0

    def execution_time_probe(self, num_steps, **options):
        """Watch the time of each step."""
        self.steps = num_steps

    def energy_probe(self, num_steps):
        """Watch the power."""
        self.energy = 2.0 * num_steps

    @property
    def execution_time(self):
        """Microseconds per step."""
        return np.full(self.steps, 150.0)

    @property
    def host_time(self):
        """A probe that was not set."""
        raise RuntimeError("no probe")
