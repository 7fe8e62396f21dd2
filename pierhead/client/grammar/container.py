"""Docker's grammar of the container commands, but for run and create."""

COMMANDS = {
    "attach": """[OPTIONS] CONTAINER
Attach local standard input, output, and error streams to a running container
--detach-keys string  Override the key sequence for detaching a container
--no-stdin  Do not attach STDIN
--sig-proxy  Proxy all received signals to the process (default true)""",
    "bundle": """CONTAINER DIRECTORY
Write a container as an OCI bundle (config.json and root file system), which runc run and the like run""",
    "commit": """[OPTIONS] CONTAINER [REPOSITORY[:TAG]]
Create a new image from a container's changes
-a, --author string  Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
-c, --change list  Apply Dockerfile instruction to the created image
-m, --message string  Commit message
-p, --pause  Pause container during commit (default true)""",
    "cp": """[OPTIONS] CONTAINER:SRC_PATH|SRC_PATH|- CONTAINER:DEST_PATH|DEST_PATH|-
Copy files/folders between a container and the local filesystem
-a, --archive  Archive mode (copy all uid/gid information)
-L, --follow-link  Always follow symbol link in SRC_PATH
-q, --quiet  Suppress progress output during copy. \
Progress output is automatically suppressed if no terminal is attached""",
    "diff": """CONTAINER
Inspect changes to files or directories on a container's filesystem""",
    "exec": """[OPTIONS] CONTAINER COMMAND [ARG...]
Execute a command in a running container
-d, --detach  Detached mode: run command in the background
--detach-keys string  Override the key sequence for detaching a container
-e, --env list  Set environment variables
--env-file list  Read in a file of environment variables
-i, --interactive  Keep STDIN open even if not attached
--privileged  Give extended privileges to the command
-t, --tty  Allocate a pseudo-TTY
-u, --user string  Username or UID (format: "<name|uid>[:<group|gid>]")
-w, --workdir string  Working directory inside the container""",
    "export": """[OPTIONS] CONTAINER
Export a container's filesystem as a tar archive
-o, --output string  Write to a file, instead of STDOUT""",
    "inspect": """[OPTIONS] CONTAINER [CONTAINER...]
Display detailed information on one or more containers
-f, --format string  @plain
-s, --size  Display total file sizes""",
    "kill": """[OPTIONS] CONTAINER [CONTAINER...]
Kill one or more running containers
-s, --signal string  Signal to send to the container""",
    "logs": """[OPTIONS] CONTAINER
Fetch the logs of a container
--details  Show extra details provided to logs
-f, --follow  Follow log output
--since string  Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)
-n, --tail string  Number of lines to show from the end of the logs (default "all")
-t, --timestamps  Show timestamps
--truncate  Delete what has been logged so far, and show nothing
--until string  Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)""",
    "ls": """[OPTIONS]
List containers
-a, --all  Show all containers (default shows just running)
-f, --filter filter  Filter output based on conditions provided
--format string  @table
-n, --last int  Show n last created containers (includes all states) (default -1)
-l, --latest  Show the latest created container (includes all states)
--no-trunc  Don't truncate output
-q, --quiet  Only display container IDs
-s, --size  Display total file sizes""",
    "pause": """CONTAINER [CONTAINER...]
Pause all processes within one or more containers""",
    "port": """CONTAINER [PRIVATE_PORT[/PROTO]]
List port mappings or a specific mapping for the container""",
    "prune": """[OPTIONS]
Remove all stopped containers
--dry-run  Say what would be removed, and remove nothing
--filter filter  Provide filter values (e.g. "until=<timestamp>")
-f, --force  Do not prompt for confirmation""",
    "rename": """CONTAINER NEW_NAME
Rename a container""",
    "restart": """[OPTIONS] CONTAINER [CONTAINER...]
Restart one or more containers
-s, --signal string  Signal to send to the container
-t, --timeout int  Seconds to wait before killing the container
!--time int  Deprecated: use --timeout""",
    "rm": """[OPTIONS] CONTAINER [CONTAINER...]
Remove one or more containers
-f, --force  Force the removal of a running container (uses SIGKILL)
-l, --link  Remove the specified link
-v, --volumes  Remove anonymous volumes associated with the container
--space  Say in the end how many bytes on the disk that has given back""",
    "start": """[OPTIONS] CONTAINER [CONTAINER...]
Start one or more stopped containers
-a, --attach  Attach STDOUT/STDERR and forward signals
--checkpoint string  Restore from this checkpoint
--checkpoint-dir string  Use a custom checkpoint storage directory
--detach-keys string  Override the key sequence for detaching a container
-i, --interactive  Attach container's STDIN""",
    "stats": """[OPTIONS] [CONTAINER...]
Display a live stream of container(s) resource usage statistics
-a, --all  Show all containers (default shows just running)
--format string  @table
--no-stream  Disable streaming stats and only pull the first result
--no-trunc  Do not truncate output""",
    "stop": """[OPTIONS] CONTAINER [CONTAINER...]
Stop one or more running containers
-s, --signal string  Signal to send to the container
-t, --timeout int  Seconds to wait before killing the container
!--time int  Deprecated: use --timeout""",
    "top": """CONTAINER [ps OPTIONS]
Display the running processes of a container""",
    "unpause": """CONTAINER [CONTAINER...]
Unpause all processes within one or more containers""",
    "update": """[OPTIONS] CONTAINER [CONTAINER...]
Update configuration of one or more containers
--blkio-weight uint16  Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)
--cpu-period int  Limit CPU CFS (Completely Fair Scheduler) period
--cpu-quota int  Limit CPU CFS (Completely Fair Scheduler) quota
--cpu-rt-period int  Limit the CPU real-time period in microseconds
--cpu-rt-runtime int  Limit the CPU real-time runtime in microseconds
-c, --cpu-shares int  CPU shares (relative weight)
--cpus decimal  Number of CPUs
--cpuset-cpus string  CPUs in which to allow execution (0-3, 0,1)
--cpuset-mems string  MEMs in which to allow execution (0-3, 0,1)
-m, --memory bytes  Memory limit
--memory-reservation bytes  Memory soft limit
--memory-swap bytes  Swap limit equal to memory plus swap: -1 to enable unlimited swap
--pids-limit int  Tune container pids limit (set -1 for unlimited)
--publish-add list  Publish further ports, in every form of run's -p; at once where the container runs
--publish-rm list  Publish ports no longer: [ip:]host-port[:container-port][/protocol], numbers or ranges
--restart string  Restart policy to apply when a container exits""",
    "wait": """CONTAINER [CONTAINER...]
Block until one or more containers stop, then print their exit codes""",
}
