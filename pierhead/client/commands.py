"""The tree of commands: which words name which command, and where its code and its grammar are.

Only this table is read before a command is known; the command's own module is imported then.
"""


class Command:
    """One command. ``code`` is ``module:function`` below ``pierhead.client``; ``grammar`` is ``module:entry``."""

    __slots__ = ("aliases", "canonical", "code", "description", "grammar")

    def __init__(self, canonical: str, description: str, code: str, grammar: str, aliases: tuple[str, ...]) -> None:
        self.canonical = canonical
        self.description = description
        self.code = code
        self.grammar = grammar
        self.aliases = aliases


GROUPS = {
    "container": "Manage containers",
    "context": "Manage contexts",
    "image": "Manage images",
    "network": "Manage networks",
    "system": "Manage Pierhead",
    "volume": "Manage volumes",
}
COMMON = ("run", "exec", "ps", "pull", "images", "version", "info")
HIDDEN = frozenset(("list",))

# canonical · other spellings · code · description
_TABLE = """\
container attach|attach|streams_commands:attach|Attach local standard input, output, and error streams to a running \
container
container bundle||bundle:bundle|Write a container as an OCI bundle: config.json and root file system
container commit|commit|archives:commit|Create a new image from a container's changes
container cp|cp|copying:cp|Copy files/folders between a container and the local filesystem
container create|create|run:create|Create a new container
container diff|diff|container_views:diff|Inspect changes to files or directories on a container's filesystem
container exec|exec|exec:exec_|Execute a command in a running container
container export|export|archives:export|Export a container's filesystem as a tar archive
container inspect||inspect:container|Display detailed information on one or more containers
container kill|kill|lifecycle:kill|Kill one or more running containers
container logs|logs|streams_commands:logs|Fetch the logs of a container
container ls|container list,container ps,ps|ps:ls|List containers
container pause|pause|lifecycle:pause|Pause all processes within one or more containers
container port|port|container_views:port|List port mappings or a specific mapping for the container
container prune||prune:containers|Remove all stopped containers
container rename|rename|lifecycle:rename|Rename a container
container restart|restart|lifecycle:restart|Restart one or more containers
container rm|container remove,rm|lifecycle:rm|Remove one or more containers
container run|run|run:run|Create and run a new container from an image
container start|start|start:start|Start one or more stopped containers
container stats|stats|stats:stats|Display a live stream of container(s) resource usage statistics
container stop|stop|lifecycle:stop|Stop one or more running containers
container top|top|container_views:top|Display the running processes of a container
container unpause|unpause|lifecycle:unpause|Unpause all processes within one or more containers
container update|update|update:update|Update configuration of one or more containers
container wait|wait|lifecycle:wait|Block until one or more containers stop, then print their exit codes
context ls|context list|context:ls|List contexts
context show||context:show_|Print the name of the current context
image history|history|images:history|Show the history of an image
image import|import|archives:import_|Import the contents from a tarball to create a filesystem image
image inspect||inspect:image|Display detailed information on one or more images
image load|load|archives:load|Load an image from a tar archive or STDIN
image ls|image list,images|images:ls|List images
image pin||pins:pin|Keep images whatever is pruned or cleaned up
image prune||prune:images|Remove unused images
image pull|pull|pull:pull|Download an image from a registry
image push|push|push:push|Upload an image to a registry
image rm|image remove,rmi|images:rm|Remove one or more images
image save|save|archives:save|Save one or more images to a tar archive (streamed to STDOUT by default)
image tag|tag|images:tag|Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE
image unpin||pins:unpin|No longer keep images from being pruned or cleaned up
network check||network_check:check|Say whether a container, the host or the outside reaches something, and if not, why
network connect||networks:connect|Connect a container to a network
network create||networks:create|Create a network
network disconnect||networks:disconnect|Disconnect a container from a network
network inspect||inspect:network|Display detailed information on one or more networks
network ls|network list|networks:ls|List networks
network map||network_map:map_|Draw the networks as they really are: interfaces, bridges, containers, ports
network prune||prune:networks|Remove all unused networks
network reload||networks:reload|Apply all networks and firewall rules again
network rm|network remove|networks:rm|Remove one or more networks
system df||df:df|Show docker disk usage
system events|events|events:events|Get real time events from the server
system fsck||fsck:fsck|Compare the database with what is on the disk, and mend the differences
system info|info|info:info|Display system-wide information
system prune||prune:system|Remove unused data
system trim||trim:trim|Tell the disk which of its blocks are free: a VM's host gets them back
system stop||embedded:stop|Stop the daemon that pier started
volume create||volumes:create|Create a volume
volume inspect||inspect:volume|Display detailed information on one or more volumes
volume ls|volume list|volumes:ls|List volumes
volume prune||prune:volumes|Remove unused local volumes
volume rm|volume remove|volumes:rm|Remove one or more volumes
doctor||doctor:doctor|Say what this machine lacks for containers, and what would fix it
inspect||inspect:inspect|Return low-level information on Docker objects
search||search:search|Search Docker Hub for images
login||login:login|Authenticate to a registry
logout||login:logout|Log out from a registry
jobs||jobs:jobs|List the daemon's jobs, with their phases and durations
version||info:version|Show the Docker version information
"""


def _read() -> dict[str, Command]:
    tree = {}
    for line in _TABLE.splitlines():
        canonical, others, code, description = line.split("|", 3)
        names = [canonical, *(others.split(",") if others else [])]
        group, _, entry = canonical.rpartition(" ")
        module = "run" if entry in ("run", "create") and group == "container" else group or "system"
        command = Command(canonical, description, code, f"{module}:{entry}", tuple(names) if others else ())
        for name in names:
            tree[name] = command
    return tree


TREE = _read()
