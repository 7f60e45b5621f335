"""Conversion for one time step: activations become neurons of several thresholds that keep no charge."""
