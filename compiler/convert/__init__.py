"""Conversion: a trained ANN becomes a spiking network, without training."""
