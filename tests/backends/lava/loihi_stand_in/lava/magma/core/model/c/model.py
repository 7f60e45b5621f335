"""A model on an embedded core; there is none here."""


class CLoihiProcessModel:
    """What Intel's models for embedded cores derive from."""
