"""Docker's grammar of the network commands."""

COMMANDS = {
    "check": """[OPTIONS] CONTAINER|host|outside DESTINATION[:PORT][/udp]
Say whether a container, the host or the outside reaches something, and if not, why
--format string  Output format ("text", "json") (default "text")""",
    "connect": """[OPTIONS] NETWORK CONTAINER
Connect a container to a network
--alias strings  Add network-scoped alias for the container
--driver-opt strings  driver options for the network
--gw-priority int  Highest gw-priority provides the default gateway. Accepts positive and negative values.
--ip string  IPv4 address (e.g., "172.30.100.104")
--ip6 string  IPv6 address (e.g., "2001:db8::33")
--link list  Add link to another container
--link-local-ip strings  Add a link-local address for the container""",
    "create": """[OPTIONS] NETWORK
Create a network
--attachable  Enable manual container attachment
--aux-address map  Auxiliary IPv4 or IPv6 addresses used by Network driver (default map[])
--config-from string  The network from which to copy the configuration
--config-only  Create a configuration only network
-d, --driver string  Driver to manage the Network (default "bridge")
--gateway strings  IPv4 or IPv6 Gateway for the master subnet
--ingress  Create swarm routing-mesh network
--internal  Restrict external access to the network
--ip-range strings  Allocate container ip from a sub-range
--ipam-driver string  IP Address Management Driver (default "default")
--ipam-opt map  Set IPAM driver specific options (default map[])
--ipv4  Enable or disable IPv4 address assignment (default true)
--ipv6  Enable or disable IPv6 address assignment
--label list  Set metadata on a network
-o, --opt map  Set driver specific options (default map[])
--scope string  Control the network's scope
--subnet strings  Subnet in CIDR format that represents a network segment""",
    "disconnect": """[OPTIONS] NETWORK CONTAINER
Disconnect a container from a network
-f, --force  Force the container to disconnect from a network""",
    "inspect": """[OPTIONS] NETWORK [NETWORK...]
Display detailed information on one or more networks
-f, --format string  @plain
-v, --verbose  Verbose output for diagnostics""",
    "ls": """[OPTIONS]
List networks
-f, --filter filter  Provide filter values (e.g. "driver=bridge")
--format string  @table
--no-trunc  Do not truncate the output
-q, --quiet  Only display network IDs""",
    "map": """[OPTIONS]
Draw the networks as they really are: interfaces, bridges, containers, ports
--format string  Output format ("tree", "svg", "json"); by default what the output's name ends in, else "tree"
-o, --output string  Write to a file, instead of STDOUT""",
    "prune": """[OPTIONS]
Remove all unused networks
--dry-run  Say what would be removed, and remove nothing
--filter filter  Provide filter values (e.g. "until=<timestamp>")
-f, --force  Do not prompt for confirmation""",
    "reload": """[OPTIONS]
Apply all networks and firewall rules again, and say what was missing""",
    "rm": """NETWORK [NETWORK...]
Remove one or more networks
-f, --force  Do not error if the network does not exist""",
}
