"""Published ports: the column of ``pier ps``, and what ``-p`` and ``--expose`` mean."""

from __future__ import annotations

from pierhead.client.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def display_ports(ports: list[Any]) -> str:
    """Docker's ``ps`` column: neighbouring ports that are published as themselves are shown as one range."""
    spans: dict[tuple[str, str], list[int]] = {}
    done: list[str] = []
    mapped: list[str] = []
    for port in sorted(ports, key=_order):
        private, public = port["PrivatePort"], port.get("PublicPort") or 0
        address, protocol = port.get("IP") or "", port.get("Type") or ""
        if address and public != private:
            mapped.append(f"{bracketed(address)}:{public}->{private}/{protocol}")
            continue
        span = spans.get((address, protocol))
        if span is not None and private == span[1] + 1:
            span[1] = private
            continue
        if span is not None:
            done.append(_range(address, protocol, span))
        spans[address, protocol] = [private, private]
    done += [_range(address, protocol, span) for (address, protocol), span in spans.items()]
    return ", ".join(done + mapped)


def listening(ports: list[Any]) -> str:
    """The same column for a container of the host's network: its own ports, on the host's own addresses."""
    found = [(one["port"], one["protocol"], bracketed(one["address"])) for one in ports]
    return ", ".join(f"{address}:{port}/{protocol}" for port, protocol, address in sorted(found))


def _order(port: Any) -> tuple[int, str, int, str]:
    return port["PrivatePort"], port.get("IP") or "", port.get("PublicPort") or 0, port.get("Type") or ""


def _range(address: str, protocol: str, span: list[int]) -> str:
    text = str(span[0]) if span[0] == span[1] else f"{span[0]}-{span[1]}"
    return f"{bracketed(address)}:{text}->{text}/{protocol}" if address else f"{text}/{protocol}"


def bracketed(address: str) -> str:
    """An IPv6 address as it stands before a port."""
    return f"[{address}]" if ":" in address else address


def parse_range(text: str) -> tuple[int, int] | None:
    """``80`` or ``80-90``; None where it is neither."""
    first, dash, last = text.partition("-")
    if not dash:
        last = first
    if not all(part.isascii() and part.isdigit() for part in (first, last)):
        return None
    return (int(first), int(last)) if int(first) <= int(last) <= 65535 else None


def _wrong_range(text: str) -> str:
    """What Go says of a text that is neither a port nor a range."""
    if not text:
        return "empty string specified for ports"
    first, dash, last = text.partition("-")
    for part in (first, last) if dash else (text,):
        if not (part.isascii() and part.isdigit()):
            return f'strconv.ParseUint: parsing "{part}": invalid syntax'
        if int(part) > 65535:
            return f'strconv.ParseUint: parsing "{part}": value out of range'
    return f"invalid range specified for port: {text}"


def publish(specs: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """``-p`` values to the API's ExposedPorts and PortBindings. Raises ClientError in Docker's words."""
    exposed: dict[str, Any] = {}
    bindings: dict[str, Any] = {}
    for spec in specs:
        for port, address, host in _spec(_long_form(spec) if "=" in spec else spec):
            exposed[port] = {}
            bindings.setdefault(port, []).append({"HostIp": address, "HostPort": host})
    return exposed, bindings


def _long_form(spec: str) -> str:
    """``published=8080,target=80,protocol=tcp`` as ``8080:80/tcp``."""
    found = {"protocol": "tcp", "published": "", "target": ""}
    for part in spec.split(","):
        key, equals, value = part.partition("=")
        if key not in ("protocol", "published", "target", "mode") or not equals:
            raise ClientError(f"invalid publish opts format (should be name=value but got '{part}')")
        found[key] = value
    return f"{found['published']}:{found['target']}/{found['protocol']}"


def _spec(spec: str) -> list[tuple[str, str, str]]:
    body, slash, protocol = spec.rpartition("/")
    if not slash:
        body, protocol = spec, "tcp"
    elif not protocol:
        protocol = "tcp"
    rest, _, container = body.rpartition(":")
    address, _, host = rest.rpartition(":")
    if address.startswith("["):
        if not address.endswith("]"):
            raise ClientError(f"invalid IP address {address}: address {address}:: missing ']' in address")
        address = address[1:-1]
    if not container:
        raise ClientError(f"no port specified: {spec}<empty>")
    inside = parse_range(container)
    if inside is None:
        raise ClientError(f"invalid containerPort: {container}")
    outside = parse_range(host) if host else None
    if host and outside is None:
        raise ClientError(f"invalid hostPort: {host}")
    if address:
        from pierhead.client.values import is_address

        if not is_address(address):
            raise ClientError(f"invalid IP address: {address}")
    if protocol.lower() not in ("tcp", "udp", "sctp"):
        raise ClientError(f"invalid proto: {protocol}")
    count = inside[1] - inside[0]
    if outside and outside[1] - outside[0] != count:
        if count:
            raise ClientError(f"invalid ranges specified for container and host Ports: {container} and {host}")
        return [(f"{inside[0]}/{protocol.lower()}", address, host)]  # one port, on whichever of the range is free
    return [
        (f"{inside[0] + step}/{protocol.lower()}", address, str(outside[0] + step) if outside else "")
        for step in range(count + 1)
    ]


def expose(specs: list[str]) -> dict[str, Any]:
    """``--expose`` values to ExposedPorts."""
    exposed: dict[str, Any] = {}
    for spec in specs:
        if ":" in spec:
            raise ClientError(f"invalid port format for --expose: {spec}")
        ports, _, protocol = spec.partition("/")
        span = parse_range(ports)
        if span is None:
            raise ClientError(f"invalid range format for --expose: {spec}, error: {_wrong_range(ports)}")
        for port in range(span[0], span[1] + 1):
            exposed[f"{port}/{protocol or 'tcp'}"] = {}
    return exposed
