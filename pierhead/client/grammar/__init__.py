"""Docker's grammar, as data: the help page of each command is also what its flags are parsed by.

Each entry is a page: its operands, its one-line description, then one line per flag as Docker's help shows it,
``[-x, ]--name[ type]  usage``.  A flag without a type is a boolean; a line beginning with ``|`` goes on with the usage
above it; a ``!`` before a flag hides it from the help; ``@table`` and ``@plain`` stand for the long explanation of
``--format``.
"""
