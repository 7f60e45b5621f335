"""Benchmarks of programs: on engines and devices, one or a fleet of them, timed, kept and compared."""
