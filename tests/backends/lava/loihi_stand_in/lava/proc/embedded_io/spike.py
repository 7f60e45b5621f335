"""Adapters that hand on what they hear in the same step."""
# ruff: noqa: TID251

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class _Adapter(AbstractProcess):
    def __init__(self, *, shape, num_message_bits=0):
        super().__init__(shape=shape, num_message_bits=num_message_bits)
        self.inp, self.out = InPort(shape=shape), OutPort(shape=shape)


class PyToNxAdapter(_Adapter):
    """From the host to the chip."""


class NxToPyAdapter(_Adapter):
    """From the chip to the host."""


class _Model(PyLoihiProcessModel):
    inp = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def run_spk(self):
        heard = self.inp.recv()
        self.out.send(heard if self.proc_params["num_message_bits"] else (heard != 0).astype(np.int32))


@implements(proc=PyToNxAdapter, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyToNx(_Model):
    """In the same step; without message bits only spikes pass."""


@implements(proc=NxToPyAdapter, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class NxToPy(_Model):
    """In the same step; without message bits only spikes pass."""
