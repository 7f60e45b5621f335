"""Networks of which a part runs on the host: chip segments, each a program of its own, and named boundaries between."""
