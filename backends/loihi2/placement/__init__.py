"""placement: which core holds which neurons of a lowered network.

`model` is a core and what it holds, `layer` what a population asks of a core, `tile` cuts populations, `pack` puts the
tiles on cores, `traffic` counts what crosses chips, `place` is the pass.
"""

from d2e.backends.loihi2.placement.place import Place, estimate

__all__ = ["Place", "estimate"]
