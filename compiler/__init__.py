"""How a network changes: front ends, passes, report. Knows a chip only as the `Target` protocol."""
