"""Docker's grammar of the volume commands."""

COMMANDS = {
    "create": """[OPTIONS] [VOLUME]
Create a volume
!--availability string  Cluster Volume availability ("active", "pause", "drain") (default "active")
-d, --driver string  Specify volume driver name (default "local")
!--group string  Cluster Volume group (cluster volumes)
--label list  Set metadata for a volume
!--limit-bytes bytes  Minimum size of the Cluster Volume in bytes
-o, --opt map  Set driver specific options (default map[])
!--required-bytes bytes  Maximum size of the Cluster Volume in bytes
!--scope string  Cluster Volume access scope ("single", "multi") (default "single")
!--secret map  Cluster Volume secrets (default map[])
!--sharing string  Cluster Volume access sharing ("none", "readonly", "onewriter", "all") (default "none")
!--topology-preferred list  A topology that the Cluster Volume would be preferred in
!--topology-required list  A topology that the Cluster Volume must be accessible from
!--type string  Cluster Volume access type ("mount", "block") (default "block")""",
    "inspect": """[OPTIONS] VOLUME [VOLUME...]
Display detailed information on one or more volumes
-f, --format string  @plain""",
    "ls": """[OPTIONS]
List volumes
!--cluster  Display only cluster volumes, and use cluster volume list formatting
-f, --filter filter  Provide filter values (e.g. "dangling=true")
--format string  @table
-q, --quiet  Only display volume names""",
    "prune": """[OPTIONS]
Remove unused local volumes
-a, --all  Remove all unused volumes, not just anonymous ones
--dry-run  Say what would be removed, and remove nothing
--filter filter  Provide filter values (e.g. "label=<label>")
-f, --force  Do not prompt for confirmation""",
    "rm": """[OPTIONS] VOLUME [VOLUME...]
Remove one or more volumes. You cannot remove a volume that is in use by a container.
-f, --force  Force the removal of one or more volumes
--space  Say in the end how many bytes on the disk that has given back""",
}
