"""[Docker Daemon] Server, Engine and Jobs; main.py puts the parts together."""
