"""Files for the interpreter that has Lava; never imported by d2e."""
