"""Adaptive Calibration (Wang et al., AAAI 2025): burst neurons over T steps, spikes compressed, answers read early."""
