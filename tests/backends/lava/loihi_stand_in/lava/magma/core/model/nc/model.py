"""A model on a neuro core; there is none here."""


class AbstractNcProcessModel:
    """What Intel's models of stock processes derive from."""
