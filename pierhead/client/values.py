"""What a flag's value may be: Docker's own checks and their words, made before anything is sent."""

from pierhead.wire.sizes import size


def check(kind: str, name: str, value: str) -> str:
    """Why a flag of this type cannot have this value; empty where it can."""
    if kind in ("int", "uint", "uint16"):
        return _integer(kind, value)
    if kind == "bytes":
        if name == "memory-swap" and value == "-1":
            return ""
        return "" if size(value) is not None else f"invalid size: '{value}'"
    if kind == "duration":
        return "" if duration(value) is not None else _no_duration(value)
    if kind == "decimal":
        return _decimal(value)
    if kind == "filter":
        return "" if not value or "=" in value else "bad format of filter (expected name=value)"
    if kind == "ulimit":
        return _ulimit(value)
    if kind == "gpu-request":
        from pierhead.client.run_options import gpu_problem

        return gpu_problem(value)
    if kind == "mount":
        from pierhead.client.mounts import problem

        return problem(value)
    if kind == "strings":
        return _strings(value)
    if kind == "network":
        from pierhead.client.networks_option import network_problem

        return network_problem(value)
    return _by_name(name, value)


def _integer(kind: str, value: str) -> str:
    function = "ParseInt" if kind == "int" else "ParseUint"
    try:
        number = int(value, 0)
    except ValueError:
        return f"strconv.{function}: parsing {quoted(value)}: invalid syntax"
    if kind != "int" and (number < 0 or (kind == "uint16" and number > 65535)):
        return f"strconv.{function}: parsing {quoted(value)}: value out of range"
    return ""


def _strings(value: str) -> str:
    from pierhead.client import csvline

    try:
        csvline.split(value or ",")
    except csvline.CsvError as error:
        return str(error)
    return ""


LIMITS = frozenset(
    "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack".split()
)


def _ulimit(value: str) -> str:
    name, equals, limits = value.partition("=")
    if not equals:
        return f"invalid ulimit argument: {value}"
    if name not in LIMITS:
        return f"invalid ulimit type: {name}"
    if limits.count(":") > 1:
        return f"too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
    soft, colon, hard = limits.partition(":")
    for text in (soft, hard if colon else soft):
        if not text.lstrip("-").isdigit():
            return f"strconv.ParseInt: parsing {quoted(text)}: invalid syntax"
    low, high = int(soft), int(hard if colon else soft)
    if high != -1 and (low == -1 or low > high):
        return f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
    return ""


def _decimal(value: str) -> str:
    from fractions import Fraction

    try:
        number = Fraction(value)
    except (ValueError, ZeroDivisionError):
        return f"failed to parse {value} as a rational number"
    return "" if (number * 1_000_000_000).denominator == 1 else "value is too precise"


def _device_value(name: str, value: str) -> str:
    """What a throttle or a weight of one block device may be."""
    path, colon, number = value.partition(":")
    if not colon or not path:
        return f"bad format: {value}"
    if not path.startswith("/dev/"):
        return f"bad format for device path: {value}"
    if name == "blkio-weight-device":
        fits = number.isascii() and number.isdigit() and (int(number) == 0 or 10 <= int(number) <= 1000)
        return "" if fits else f"invalid weight for device: {value}"
    if name.endswith("-bps"):
        form, fits = (
            "<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb",
            (size(number) is not None),
        )
    else:
        form, fits = "<number>. Number must be a positive integer", number.isascii() and number.isdigit()
    return "" if fits else f"invalid rate for device: {value}. The correct format is <device-path>:{form}"


def _by_name(name: str, value: str) -> str:
    if name.startswith(("device-read-", "device-write-", "blkio-weight-device")):
        return _device_value(name, value)
    if name == "device-cgroup-rule" and not _is_device_rule(value):
        return f"invalid device cgroup format '{value}'"
    if name == "env" and value.startswith("="):
        return f"invalid environment variable: {value}"
    if name == "add-host":
        host, separator, address = extra_host(value)
        if not separator or not host or ":" in host:
            return f"bad format for add-host: {quoted(value)}"
        if address != "host-gateway" and not is_address(address.strip()):
            return f"invalid IP address in add-host: {quoted(address)}"
    if name == "dns" and not is_address(value.strip()):
        return f"IP address is not correctly formatted: {value.strip()}"
    if name == "sysctl" and not _sysctl_allowed(value):
        return f"sysctl '{value}' is not allowed"
    if name == "attach" and value.lower() not in ("stdin", "stdout", "stderr"):
        return "valid streams are STDIN, STDOUT and STDERR"
    if name == "dns-search" and domain(value) is None:
        return f"{value} is not a valid domain"
    if name == "link" and not value:
        return "empty string specified for links"
    if name == "link" and value.count(":") > 1:
        return f"bad format for links: {value}"
    if name == "label" and value.startswith("="):
        return f"invalid label '{value}': empty name"
    return ""


def extra_host(text: str) -> tuple[str, str, str]:
    """Name, separator and address of ``--add-host``; an address may stand in brackets."""
    name, separator, address = text.partition("=") if "=" in text else text.partition(":")
    if len(address) > 2 and address[0] == "[" and address[-1] == "]":
        address = address[1:-1]
    return name, separator, address


def _is_device_rule(text: str) -> bool:
    import re

    return re.fullmatch(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}", text) is not None


def domain(text: str) -> str | None:
    """A search domain without its final dot, "." for none at all. None: not a domain."""
    import re

    text = text.strip(" ")
    if text == ".":
        return text
    label = "[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?"
    found = re.fullmatch(rf"({label}(\.{label})*)\.?\s*", text)
    return found[1] if found and len(found[1]) < 255 and re.search("[a-zA-Z]", text) else None


def is_mac(text: str) -> bool:
    """Whether Go takes this for a hardware address: pairs with colons or dashes, or fours with dots."""
    import re

    pairs = "[0-9a-f]{2}(([:-])[0-9a-f]{2})(\\2[0-9a-f]{2}){%d}"
    fours = "[0-9a-f]{4}(\\.[0-9a-f]{4}){%d}"
    forms = [pairs % (count - 2) for count in (6, 8, 20)] + [fours % (count - 1) for count in (3, 4, 10)]
    return any(re.fullmatch(form, text.lower()) for form in forms)


def _sysctl_allowed(value: str) -> bool:
    name, equals, _ = value.partition("=")
    return bool(equals) and (
        name.startswith(("net.", "fs.mqueue."))
        or name
        in (
            "kernel.msgmax",
            "kernel.msgmnb",
            "kernel.msgmni",
            "kernel.sem",
            "kernel.shmall",
            "kernel.shmmax",
            "kernel.shmmni",
            "kernel.shm_rmid_forced",
        )
    )


def is_address(text: str) -> bool:
    """Whether this is an IPv4 or IPv6 address."""
    import socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, text)
            return True
        except OSError:
            continue
    return False


def quoted(text: str) -> str:
    """Go's strconv.Quote."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(letter: str) -> str:
    number = ord(letter)
    if letter in "\a\b\f\n\r\t\v":
        return "\\" + "abtnvfr"[number - 7]
    if letter in '"\\':
        return "\\" + letter
    if letter.isprintable():
        return letter
    if 0xDC80 <= number <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{number - 0xDC00:02x}"
    return f"\\x{number:02x}" if number < 0x80 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


UNITS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


def duration(text: str) -> int | None:
    """Nanoseconds of Go's ``1h2m3.5s``. None: not a duration."""
    sign, rest = (-1, text[1:]) if text[:1] == "-" else (1, text.removeprefix("+"))
    if rest == "0":
        return 0
    if not rest:
        return None
    total = 0.0
    while rest:
        digits = len(rest) - len(rest.lstrip("0123456789."))
        number, rest = rest[:digits], rest[digits:]
        letters = len(rest) - len(rest.lstrip("nsuµμmh"))
        unit, rest = rest[:letters], rest[letters:]
        if unit not in UNITS or number.count(".") > 1 or not number.strip("."):
            return None
        total += float(number) * UNITS[unit]
    return sign * round(total)


def _no_duration(text: str) -> str:
    """Why, in the words of Go: a number without a unit, or with one that there is not."""
    import re

    number_first = re.match(r"[+-]?\.?[0-9]", text)
    for unit in re.findall(r"[0-9]\.?([^0-9.]*)(?=[0-9.]|$)", text) if number_first else ():
        if not unit:
            return f'time: missing unit in duration "{text}"'
        if unit not in UNITS:
            return f'time: unknown unit "{unit}" in duration "{text}"'
    return f'time: invalid duration "{text}"'
