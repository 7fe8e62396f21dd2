"""[Driver] The three driver families; each has its Protocol in api.py."""
