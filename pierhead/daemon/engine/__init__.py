"""[Engine] Runs jobs, owns state, locks and events."""
