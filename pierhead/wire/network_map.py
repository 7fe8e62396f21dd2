"""What ``pier network map`` draws (GET /pierhead/network/map; not part of Docker's API).

Everything is what the kernel says, at one moment; what GraphDB says otherwise is a problem, in words, at the thing that
it is about.
"""

import msgspec


class Interface(msgspec.Struct, kw_only=True):
    """One network interface of the host, or one in a container that is not ours.

    kind: "bridge", "veth", …, empty for a real device.  parent: the bridge that it is a port of, or the device that it
    sits on.  network: the engine's network that it was made for, or empty.  gateways: next hops of default routes.
    """

    name: str
    kind: str
    up: bool
    carrier: bool
    mtu: int
    mac: str
    addresses: list[str]
    parent: str = ""
    network: str = ""
    gateways: list[str] = []


class Port(msgspec.Struct, kw_only=True):
    """A published port or range; ip empty: every address of the host."""

    protocol: str
    ip: str
    port: int
    last: int
    container_port: int


class Listener(msgspec.Struct, kw_only=True):
    """A port on which a process of the container takes connections or datagrams."""

    protocol: str
    address: str
    port: int
    process: str


class ListenersOfContainer(msgspec.Struct, kw_only=True):
    """The ports on which a container in the host's network really listens."""

    id: str
    listeners: list[Listener]


class PastFirewall(msgspec.Struct, kw_only=True):
    """A published port or range ("8000-8010/tcp") that outsiders reach past the host's input rules."""

    id: str
    name: str
    ports: str
    stopped_by: str


class PortSight(msgspec.Struct, kw_only=True):
    """What ``pier ps`` and ``pier doctor`` ask for besides Docker's list (GET /pierhead/ports)."""

    listening: list[ListenersOfContainer]
    past_firewall: list[PastFirewall]


class Attachment(msgspec.Struct, kw_only=True):
    """A container's place in a network. names: what it is found by there.

    interface, outside: its end in the container and the host's, empty where there is none.  way_out: it gives the
    default route.
    """

    container: str
    names: list[str]
    interface: str
    outside: str
    up: bool
    mac: str
    mtu: int
    addresses: list[str]
    way_out: bool
    problems: list[str]


class Network(msgspec.Struct, kw_only=True):
    """One of the engine's networks. internal: it leads nowhere outside.  interface: the host's that it stands on (its
    bridge, its parent), or empty."""

    name: str
    id: str
    driver: str
    internal: bool
    interface: str
    subnets: list[str]
    gateways: list[str]
    attachments: list[Attachment]
    problems: list[str]


class Container(msgspec.Struct, kw_only=True):
    """A container that runs. shares: the id of the one whose network namespace it is in, or empty.

    others: interfaces in its namespace that no network of the engine's accounts for.
    """

    id: str
    name: str
    image: str
    state: str
    mode: str
    shares: str
    ports: list[Port]
    listeners: list[Listener]
    others: list[Interface]
    problems: list[str]


class NetworkMap(msgspec.Struct, kw_only=True):
    """The whole."""

    host: str
    forwards: bool
    interfaces: list[Interface]
    networks: list[Network]
    containers: list[Container]
    problems: list[str]
