"""A recording stand-in for samna: only what sinabs' builder of Speck configurations touches. It holds no device.

Field names and defaults: samna 0.48 API reference, samna.speck2f.configuration. A name that samna does not have is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class Struct:
    """Attributes with fixed names. A mapping assigned to a struct sets the fields of it, as samna's bindings do."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.__dict__:
            raise AttributeError(f"samna has no field {name!r} here, but {sorted(self.__dict__)}")
        if isinstance(value, Mapping):
            struct = self.__dict__[name]
            for key, each in value.items():
                setattr(struct, key, each)
        else:
            self.__dict__[name] = value


def _pair(x: int, y: int) -> Struct:
    return Struct(x=x, y=y)


def _shape() -> Struct:
    return Struct(feature_count=1, size=_pair(1, 1))


def _cnn_layer() -> Struct:
    dimensions = Struct(input_shape=_shape(), output_shape=_shape(), kernel_size=1, stride=_pair(1, 1), padding=_pair(0, 0))
    return Struct(
        dimensions=dimensions, weights=[], biases=[], neurons_initial_value=[], threshold_high=0, threshold_low=-1,
        return_to_zero=False, leak_enable=False, leak_internal_slow_clk_enable=False, monitor_enable=False,
        output_decimator_enable=False, output_decimator_interval=0, input_congestion_balancer_enable=False,
        destinations=[Struct(layer=0, enable=False, pooling=1, feature_shift=0) for _ in range(2)],
    )


def _dvs_layer() -> Struct:
    return Struct(
        cut=_pair(127, 127), origin=_pair(0, 0), pooling=_pair(1, 1), mirror=_pair(False, False), mirror_diagonal=False,
        merge=False, monitor_enable=False, raw_monitor_enable=False, on_channel=True, off_channel=True,
        pass_sensor_events=False, destinations=[Struct(layer=0, enable=False) for _ in range(2)],
    )


class SpeckConfiguration(Struct):
    """``samna.speck2f.configuration.SpeckConfiguration`` at its defaults."""

    def __init__(self) -> None:
        super().__init__(cnn_layers=[_cnn_layer() for _ in range(9)], dvs_layer=_dvs_layer())


def _modules() -> dict[str, ModuleType]:
    names = ["samnagui", "samna", "samna.device"]
    chips = ["samna.speck2e", "samna.speck2f"]
    modules = {name: ModuleType(name) for name in [*names, *chips, *(f"{chip}.configuration" for chip in chips)]}
    for chip in chips:
        vars(modules[f"{chip}.configuration"])["SpeckConfiguration"] = SpeckConfiguration
        vars(modules[chip])["validate_configuration"] = lambda configuration: (True, "")
    vars(modules["samna.device"])["DeviceInfo"] = object
    for name, module in modules.items():
        parent, _, child = name.rpartition(".")
        if parent:
            vars(modules[parent])[child] = module
    return modules


@contextmanager
def standing_in() -> Iterator[None]:
    """samna's name is the stand-in's within; what is imported meanwhile keeps it."""
    modules = _modules()
    assert not modules.keys() & sys.modules.keys(), "samna is imported already"
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
