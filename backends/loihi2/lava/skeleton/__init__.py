"""The files that every emitted package carries unchanged; they run with numpy, scipy and lava-nc alone."""
