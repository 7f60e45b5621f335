"""The passes: each a frozen dataclass whose fields are its options, run by the manager, network in, network out."""
