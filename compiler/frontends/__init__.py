"""How networks enter: torch modules, exported programs and files become an `ir.Network`."""
