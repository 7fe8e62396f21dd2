"""`make demo`: the course's networking chapter with real containers, on this machine, leaving nothing behind."""
