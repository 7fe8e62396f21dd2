"""Docker's grammar of the context commands."""

COMMANDS = {
    "ls": """[OPTIONS]
List contexts
--format string  @table
-q, --quiet  Only show context names""",
    "show": """
Print the name of the current context""",
}
