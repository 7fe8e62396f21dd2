"""Docker's grammar of the system commands, and Pierhead's own."""

COMMANDS = {
    "df": """[OPTIONS]
Show docker disk usage
--format string  @table
--fresh  Measure image layers again, too
-v, --verbose  Show detailed information on space usage""",
    "events": """[OPTIONS]
Get real time events from the server
-f, --filter filter  Filter output based on conditions provided
--format string  @plain
--since string  Show all events created since timestamp
--until string  Stream events until this timestamp""",
    "fsck": """[OPTIONS]
Compare the database with directories, mounts and processes, and say every difference; the status is 1 where one is left
--deep  Read every layer and compare its digest, too
--format string  "json": one JSON text a line
--repair  Mend what can be mended""",
    "info": """[OPTIONS]
Display system-wide information
-f, --format string  @plain""",
    "prune": """[OPTIONS]
Remove unused data
-a, --all  Remove all unused images not just dangling ones
--dry-run  Say what would be removed, and remove nothing
--filter filter  Provide filter values (e.g. "label=<key>=<value>")
-f, --force  Do not prompt for confirmation
--volumes  Prune anonymous volumes""",
    "trim": """
Tell the disk which blocks of the daemon's file systems are free, so that a virtual machine's host gets them back""",
    "version": """[OPTIONS]
Show the Docker version information
-f, --format string  @plain""",
    "inspect": """[OPTIONS] NAME|ID [NAME|ID...]
Return low-level information on Docker objects
-f, --format string  @plain
-s, --size  Display total file sizes if the type is container
--type string  Only inspect objects of the given type""",
    "doctor": """[OPTIONS]
Say what this machine lacks for containers, and what would fix it""",
    "search": """[OPTIONS] TERM
Search Docker Hub for images
-f, --filter filter  Filter output based on conditions provided
--format string  Pretty-print search using a Go template
--limit int  Max number of search results
--no-trunc  Don't truncate output""",
    "login": """[OPTIONS] [SERVER]
Authenticate to a registry
-p, --password string  Password or Personal Access Token (PAT)
--password-stdin  Take the Password or Personal Access Token (PAT) from stdin
-u, --username string  Username""",
    "logout": """[SERVER]
Log out from a registry""",
    "jobs": """[OPTIONS] [JOB]
List the daemon's jobs, with their phases and durations
-a, --all  Show finished jobs too
--format string  @table
--trace  Show every phase of each job""",
    "stop": """[OPTIONS]
Stop the daemon that pier started
-f, --force  Stop its containers too""",
}
