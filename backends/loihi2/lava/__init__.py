"""Lava: from a lowered network to a self-contained package of lava-nc processes, and its run in a subprocess.

Nothing here imports lava; lava-nc lives in an interpreter of its own (`env`) and only the emitted package
(`skeleton`, copied verbatim, and the generated ``network.py``) uses it.
"""
