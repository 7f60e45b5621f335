"""Stands in for Intel's lava-loihi: that it can be found is what is asked."""
