"""Boards: one protocol, spoken by the vendor's samna and by a board that is our simulator."""
