"""The files of a compiled program: the configuration, the runner for a board, the sinabs model."""
