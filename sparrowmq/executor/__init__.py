"""Slot processes: where the tasks run, how they start, and how nothing of them outlives its worker (Linux)."""
