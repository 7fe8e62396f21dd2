"""The instance's mark on what the network drivers make, so that reconciliation finds its own objects and no others."""

from pierhead.linux.netlink import Link, Netlink

DEFAULT_BRIDGES = ("docker0", "pier0")
"""The default bridge's name; the second where a docker0 exists that is not ours."""


GROUP_MARK, GROUP_MASK = 0x50000000, 0xFF000000
"""What the link groups of all instances have in common: one instance's rules know another's bridges by it."""

PROTOCOL = 0x50
"""Who has added an address, where the interface is somebody else's: the kernel tells it with the address."""

TABLE = "pierhead-"
"""The nft tables of all instances begin with this."""


def group(instance: str) -> int:
    """The link group of every interface of an instance (8 hex digits)."""
    return GROUP_MARK | int(instance, 16) & ~GROUP_MASK


def ours(link: Link) -> bool:
    """Whether a link is any instance's."""
    return link.group & GROUP_MASK == GROUP_MARK


def table(instance: str) -> str:
    """The nft table of an instance."""
    return f"{TABLE}{instance}"


def default_bridge(instance: str) -> str:
    """The name that the default bridge has or may have in this network namespace. Raises OSError."""
    with Netlink() as netlink:
        for name in DEFAULT_BRIDGES:
            link = netlink.link(name)
            if link is None or link.group == group(instance):
                return name
    return f"pier{instance}"


def host_link(endpoint_id: str) -> str:
    """The name of an endpoint's end on the host. An endpoint gets a new id at every start, so this is new as well."""
    return f"veth{endpoint_id[:8]}"
