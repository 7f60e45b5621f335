"""loihi2-sim: the batched simulator, bit for bit lava-nc's ``fixed_pt`` models in spikes, u and v."""

from d2e.backends.loihi2.simulator.run import simulate

__all__ = ["simulate"]
