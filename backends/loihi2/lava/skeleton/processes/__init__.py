"""Process models of this package; pure modules only, because Lava imports every file of a process' folder."""
