"""The files that every compiled Speck program carries unchanged; they run with numpy, and samna where a board is opened."""
