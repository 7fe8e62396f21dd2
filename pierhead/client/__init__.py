"""[Docker Client] The pier command."""
