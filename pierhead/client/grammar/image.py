"""Docker's grammar of the image commands."""

COMMANDS = {
    "history": """[OPTIONS] IMAGE
Show the history of an image
--format string  @table
-H, --human  Print sizes and dates in human readable format (default true)
--no-trunc  Don't truncate output
--platform string  Show history for the given platform. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
-q, --quiet  Only show image IDs""",
    "import": """[OPTIONS] file|URL|- [REPOSITORY[:TAG]]
Import the contents from a tarball to create a filesystem image
-c, --change list  Apply Dockerfile instruction to the created image
-m, --message string  Set commit message for imported image
--platform string  Set platform if server is multi-platform capable""",
    "inspect": """[OPTIONS] IMAGE [IMAGE...]
Display detailed information on one or more images
-f, --format string  @plain
--platform string  Inspect a specific platform of the multi-platform image.
|If the image or the server is not multi-platform capable, the command will error out if the platform does not match.
|'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)""",
    "load": """[OPTIONS]
Load an image from a tar archive or STDIN
-i, --input string  Read from tar archive file, instead of STDIN
--platform string  Load only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
-q, --quiet  Suppress the load output""",
    "ls": """[OPTIONS] [REPOSITORY[:TAG]]
List images
-a, --all  Show all images (default hides intermediate images)
--digests  Show digests
-f, --filter filter  Filter output based on conditions provided
--format string  @table
--no-trunc  Don't truncate output
-q, --quiet  Only show image IDs
--tree  List multi-platform images as a tree (EXPERIMENTAL)""",
    "pin": """[IMAGE...]
Keep images whatever is pruned or cleaned up; without a name: list what is kept""",
    "prune": """[OPTIONS]
Remove unused images
-a, --all  Remove all unused images, not just dangling ones
--dry-run  Say what would be removed, and remove nothing
--filter filter  Provide filter values (e.g. "until=<timestamp>")
-f, --force  Do not prompt for confirmation""",
    "pull": """[OPTIONS] NAME[:TAG|@DIGEST]
Download an image from a registry
-a, --all-tags  Download all tagged images in the repository
--disable-content-trust  Skip image verification (default true)
--platform string  Set platform if server is multi-platform capable
-q, --quiet  Suppress verbose output""",
    "push": """[OPTIONS] NAME[:TAG]
Upload an image to a registry
-a, --all-tags  Push all tags of an image to the repository
--disable-content-trust  Skip image signing (default true)
--platform string  Push a platform-specific manifest as a single-platform image to the registry.
|Image index won't be pushed, meaning that other manifests, including attestations won't be preserved.
|'os[/arch[/variant]]': Explicit platform (eg. linux/amd64)
-q, --quiet  Suppress verbose output""",
    "rm": """[OPTIONS] IMAGE [IMAGE...]
Remove one or more images
-f, --force  Force removal of the image
--no-prune  Do not delete untagged parents
--platform strings  Remove only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")
--space  Say in the end how many bytes on the disk that has given back""",
    "save": """[OPTIONS] IMAGE [IMAGE...]
Save one or more images to a tar archive (streamed to STDOUT by default)
-o, --output string  Write to a file, instead of STDOUT
--platform string  Save only the given platform variant. Formatted as "os[/arch[/variant]]" (e.g., "linux/amd64")""",
    "tag": """SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]
Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE""",
    "unpin": """IMAGE [IMAGE...]
No longer keep images from being pruned or cleaned up""",
}
