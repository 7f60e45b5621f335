"""The event-driven simulator: one update and at most one spike per input event, in integers."""
