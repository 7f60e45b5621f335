"""What SpikingJelly has and d2e's step has not, by dotted class name: rows that say why and name a way out."""

from __future__ import annotations

from typing import Any

from d2e.compiler.frontends.builder import Builder, Flow
from d2e.compiler.frontends.refusals import neuron_refusal, refusal
from d2e.compiler.frontends.tensors import Row


def _no(why: str) -> Row:
    def refuse(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
        raise neuron_refusal(type(module).__name__, why, name, _SIMPLER)

    return refuse


def _no_layer(build: Builder, name: str, module: Any, flow: Flow) -> Flow:
    raise refusal(type(module).__name__, name)


_SIMPLER = "Use IFNode, LIFNode, ParametricLIFNode, CUBALIFNode or ILIFNode, and train again."
_NEURONS: tuple[tuple[str, str], ...] = (
    ("charges by a product of v with itself or by an exponential", "nonlinear_if.QIFNode nonlinear_if.EIFNode"),
    ("has a recovery variable beside v", "adapt.IzhikevichNode adapt.AdaptBaseNode"),
    ("has two coupled states that oscillate", "resonate.RAFNode"),
    ("mixes leak, input and reset by gates that change with the step", "lif_variants.GatedLIFNode"),
    ("cuts v at zero", "lif_variants.KLIFNode"),
    ("has a second state that changes its reset", "lif_variants.ComplementaryLIFNode"),
    ("sends an activation of v, not spikes", "lif_variants.LIAFNode"),
    ("sees all steps at once or several of the past", "psn.PSN psn.MaskedPSN psn.SlidingPSN"),
    ("counts the spikes it has sent, and stops at a limit", "spikezip.STBIFNode"),
    ("computes in the pass of its training, step by step with a trace",
     "online_learning.OTTTLIFNode online_learning.SLTTLIFNode"),
    ("normalises v", "mpbn.MPBNBaseNode mpbn.MPBNLIFNode"),
    ("adds noise, or connects the neurons of its layer",
     "noisy.NoisyBaseNode noisy.NoisyCUBALIFNode noisy.NoisyILCBaseNode noisy.NoisyILCCUBALIFNode "
     "noisy.NoisyNonSpikingBaseNode noisy.NoisyNonSpikingIFNode inter_layer_connection.ILCBaseNode "
     "inter_layer_connection.ILCIFNode inter_layer_connection.ILCLIFNode inter_layer_connection.ILCCUBALIFNode"),
    ("sends a rate, not spikes", "dsr.DSRIFNode dsr.DSRLIFNode"),
    ("has thresholds that depend on the step", "few_spike.FewSpikeNode few_spike.OutlierAwareThresholdNode "
     "few_spike.HGNode"),
    ("computes a step of its user's own",
     "flexsn.FlexSN base_node.BaseNode base_node.SimpleBaseNode base_node.NonSpikingBaseNode"),
    ("sends v, of all steps at once", "integrate_and_fire.NonSpikingIFNode lif.NonSpikingLIFNode"),
    ("has a threshold of its own per channel", "integrate_and_fire.ActivationAwareIFNode"),
)
_NO_LAYERS = (
    "stateless_wrapper.MaxPool1d stateless_wrapper.MaxPool2d stateless_wrapper.MaxPool3d stateless_wrapper.GroupNorm "
    "stateless_wrapper.Upsample stateless_wrapper.ConvTranspose1d stateless_wrapper.ConvTranspose2d "
    "stateless_wrapper.ConvTranspose3d stateless_wrapper.Conv3d stateless_wrapper.AvgPool1d "
    "stateless_wrapper.AvgPool3d stateless_wrapper.AdaptiveAvgPool1d stateless_wrapper.AdaptiveAvgPool3d "
    "stateless_wrapper.WSConv2d stateless_wrapper.WSLinear bn.BatchNorm3d bn.NeuNorm "
    "bn.ThresholdDependentBatchNorm1d bn.ThresholdDependentBatchNorm2d bn.TemporalEffectiveBatchNorm1d "
    "bn.TemporalEffectiveBatchNorm2d bn.BatchNormThroughTime1d bn.BatchNormThroughTime2d dropout.DropConnectLinear "
    "misc.SynapseFilter misc.SpikeCountToBinary misc.TemporalBinSum "
    "container.TLastSeqToANNContainer container.TLastMultiStepContainer attention.TemporalWiseAttention "
    "attention.MultiDimensionalAttention attention.SpikingSelfAttention attention.QKAttention "
    "attention.TokenQKAttention attention.ChannelQKAttention attention.SpikeDrivenSelfAttention "
    "bn.ThresholdDependentBatchNorm3d bn.TemporalEffectiveBatchNorm3d bn.BatchNormThroughTime3d "
    "online_learning.GradwithTrace online_learning.SpikeTraceOp online_learning.OTTTSequential "
    "stateless_wrapper.MaxUnpool1d stateless_wrapper.MaxUnpool2d stateless_wrapper.MaxUnpool3d"
)
_ENCODERS = (
    "PoissonEncoder PeriodicEncoder LatencyEncoder WeightedPhaseEncoder PopEncoder PopSpikeEncoderDeterministic "
    "PopSpikeEncoderRandom"
)
REFUSED_NEURONS: dict[str, Row] = {
    f"spikingjelly.activation_based.neuron.{name}": _no(why) for why, names in _NEURONS for name in names.split()
}
REFUSED_LAYERS: dict[str, Row] = {
    **{f"spikingjelly.activation_based.layer.{name}": _no_layer for name in _NO_LAYERS.split()},
    **{f"spikingjelly.activation_based.encoding.{name}": _no_layer for name in _ENCODERS.split()},
}
