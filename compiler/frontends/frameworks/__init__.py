"""The layers of other frameworks, found by the names of their classes; none of them is imported."""
