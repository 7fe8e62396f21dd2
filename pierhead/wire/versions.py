"""API versions: what is supported, and the one table of what differs between them."""

from pierhead.errors import InvalidParameter

Version = tuple[int, int]

OLDEST, CURRENT = "1.24", "1.50"
MINIMUM: Version = (1, 24)
MAXIMUM: Version = (1, 50)

MULTIPLEXED_STREAM_TYPE: Version = (1, 42)
"""From here on attach, logs and exec name their content type "application/vnd.docker.multiplexed-stream"."""
WAIT_CONDITION: Version = (1, 30)
"""From here on ``wait`` takes ``condition`` and sends its header at once."""
IMAGE_VIRTUAL_SIZE_GONE: Version = (1, 44)
IMAGE_CONTAINER_GONE: Version = (1, 45)
"""Before this, an image told of the container it was committed from: Compose 1 (COMPOSE_API_VERSION) looks there."""
IMAGE_LEGACY_CONFIG_GONE: Version = (1, 50)
"""Before this, an image's Config shows every field of a container's Config, empty ones too."""
DF_BUILDER_SIZE_GONE: Version = (1, 42)
STATS_ONE_SHOT: Version = (1, 41)
PING_HEAD: Version = (1, 40)
NETWORK_PRUNE: Version = (1, 25)
HOSTCONFIG_AT_START_REFUSED: Version = (1, 24)
VOLUMES_ANONYMOUS_ONLY_PRUNED: Version = (1, 42)
"""From here on ``volume prune`` keeps named volumes unless the filter ``all`` is set."""
CONSOLE_SIZE_AT_CREATE: Version = (1, 42)
ENDPOINT_MAC_ADDRESS: Version = (1, 44)
"""From here on a container's MAC address belongs to its endpoint; Config.MacAddress is deprecated."""
SEVERAL_ENDPOINTS_AT_CREATE: Version = (1, 44)
LINK_ALIAS_SHORT_ID: Version = (1, 45)
"""Before this, an endpoint's Aliases also showed the container's short id and its hostname."""
GATEWAY_PRIORITY: Version = (1, 48)
IMAGE_PUSH_PLATFORM: Version = (1, 46)
IMAGE_PLATFORM: Version = (1, 48)
"""From here on history, load and save can be asked for one platform."""
IMAGE_INSPECT_PLATFORM: Version = (1, 49)
IMAGE_REMOVE_PLATFORMS: Version = (1, 50)
BRIDGE_NF_WARNINGS_GONE: Version = (1, 50)
INFO_LEGACY_COMMITS_GONE: Version = (1, 49)


def parse(text: str) -> Version:
    """ "1.41" → (1, 41). Raises ValueError."""
    major, dot, minor = text.partition(".")
    if not dot or not major.isascii() or not major.isdigit() or not minor.isascii() or not minor.isdigit():
        raise ValueError(f"invalid API version: {text}")
    return int(major), int(minor)


def text(version: Version) -> str:
    """(1, 41) → "1.41"."""
    return f"{version[0]}.{version[1]}"


def negotiate(asked: str) -> Version:
    """The version of a path's prefix, checked. Raises InvalidParameter with Docker's words."""
    try:
        version = parse(asked)
    except ValueError:
        raise InvalidParameter(f"invalid API version: {asked}") from None
    if version < MINIMUM:
        raise InvalidParameter(
            f"client version {asked} is too old. Minimum supported API version is {OLDEST}, "
            "please upgrade your client to a newer version"
        )
    if version > MAXIMUM:
        raise InvalidParameter(f"client version {asked} is too new. Maximum supported API version is {CURRENT}")
    return version
