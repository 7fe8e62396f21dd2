"""Speed and memory of pierd beside Debian's dockerd, in one run, each on a machine (network namespace) of its own.

`make bench` prints the table.  Nothing here is asserted: figures belong to a person who reads them.
"""
