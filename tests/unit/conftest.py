"""What the unit tests have in common. Hypothesis is imported here, for no other test uses it and it is large."""

from hypothesis import settings

# No test asserts a time; hypothesis would, of every example.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
