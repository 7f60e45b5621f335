"""Stands in for Intel's adapters between host and chip; with them ``Loihi2HwCfg`` takes Lava's models of the chip."""
# ruff: noqa: TID251

from lava.magma.core.run_configs import Loihi2HwCfg
from lava.proc.embedded_io import spike as spike

_original = Loihi2HwCfg.__init__


def _fixed_point(self, **options):
    options.setdefault("select_tag", "fixed_pt")
    _original(self, **options)


Loihi2HwCfg.__init__ = _fixed_point
