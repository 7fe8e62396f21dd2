"""Every API type has the fields of the API's specification, under their very names."""

import re
from pathlib import Path

import msgspec
import pytest

from pierhead.wire import containers, execs, images, networks, system, volumes
from pierhead.wire.codec import Message

SPECIFICATIONS = (
    Path(__file__).parents[3] / "shared/reference/engine-api-v1.50.yaml",
    Path("/usr/share/gocode/src/github.com/docker/docker/api/swagger.yaml"),
)

TYPES: dict[str, type[Message]] = {
    "Port": containers.Port,
    "MountPoint": containers.MountPoint,
    "DeviceMapping": containers.DeviceMapping,
    "DeviceRequest": containers.DeviceRequest,
    "ThrottleDevice": containers.ThrottleDevice,
    "Mount": containers.Mount,
    "RestartPolicy": containers.RestartPolicy,
    "Resources": containers.Resources,
    "HealthConfig": containers.HealthConfig,
    "Health": containers.Health,
    "HealthcheckResult": containers.HealthcheckResult,
    "HostConfig": containers.HostConfig,
    "ContainerConfig": containers.ContainerConfig,
    "PortBinding": containers.PortBinding,
    "Address": containers.Address,
    "NetworkSettings": containers.NetworkSettings,
    "ContainerState": containers.ContainerState,
    "ContainerSummary": containers.ContainerSummary,
    "ContainerInspectResponse": containers.ContainerInspectResponse,
    "ContainerCreateResponse": containers.ContainerCreateResponse,
    "ContainerUpdateResponse": containers.ContainerUpdateResponse,
    "ContainerTopResponse": containers.ContainerTopResponse,
    "ContainerWaitResponse": containers.ContainerWaitResponse,
    "ContainerWaitExitError": containers.ContainerWaitExitError,
    "FilesystemChange": containers.FilesystemChange,
    "ContainerStatsResponse": system.ContainerStatsResponse,
    "ContainerBlkioStats": system.ContainerBlkioStats,
    "ContainerBlkioStatEntry": system.ContainerBlkioStatEntry,
    "ContainerCPUStats": system.ContainerCPUStats,
    "ContainerCPUUsage": system.ContainerCPUUsage,
    "ContainerThrottlingData": system.ContainerThrottlingData,
    "ContainerMemoryStats": system.ContainerMemoryStats,
    "ContainerNetworkStats": system.ContainerNetworkStats,
    "ContainerPidsStats": system.ContainerPidsStats,
    "NetworkingConfig": networks.NetworkingConfig,
    "EndpointSettings": networks.EndpointSettings,
    "EndpointIPAMConfig": networks.EndpointIPAMConfig,
    "Network": networks.NetworkInspect,
    "IPAM": networks.IPAM,
    "IPAMConfig": networks.IPAMConfig,
    "ConfigReference": networks.ConfigReference,
    "NetworkContainer": networks.NetworkContainer,
    "NetworkCreateResponse": networks.NetworkCreateResponse,
    "ImageInspect": images.ImageInspect,
    "ImageSummary": images.ImageSummary,
    "ImageConfig": images.ImageConfig,
    "ImageDeleteResponseItem": images.ImageDeleteResponseItem,
    "ImageManifestSummary": images.ImageManifestSummary,
    "OCIDescriptor": images.OCIDescriptor,
    "OCIPlatform": images.OCIPlatform,
    "CreateImageInfo": images.JSONMessage,
    "ErrorDetail": images.ErrorDetail,
    "ProgressDetail": images.ProgressDetail,
    "AuthConfig": images.AuthConfig,
    "Volume": volumes.Volume,
    "VolumeCreateOptions": volumes.VolumeCreateOptions,
    "VolumeListResponse": volumes.VolumeListResponse,
    "ProcessConfig": execs.ProcessConfig,
    "ErrorResponse": system.ErrorResponse,
    "SystemVersion": system.SystemVersion,
    "SystemInfo": system.SystemInfo,
    "PluginsInfo": system.PluginsInfo,
    "RegistryServiceConfig": system.RegistryServiceConfig,
    "IndexInfo": system.IndexInfo,
    "Runtime": system.Runtime,
    "Commit": system.Commit,
    "SwarmInfo": system.SwarmInfo,
    "FirewallInfo": system.FirewallInfo,
    "EventMessage": system.EventMessage,
    "EventActor": system.EventActor,
}

REAL = {
    "Resources": {"KernelMemory"},
    "HostConfig": {"KernelMemory"},
    "Mount": {"ClusterOptions"},
    "SystemInfo": {"KernelMemory", "SystemStatus"},
    "EventMessage": {"status", "id", "from"},
    "ContainerState": {"ExitReason"},  # ours
    "ContainerSummary": {"DiskRw", "DiskLogs", "DiskFiles"},  # ours
    "ContainerInspectResponse": {"DiskRw", "DiskLogs", "DiskFiles"},  # ours
    "ImageSummary": {"Disk", "DiskShared"},  # ours
    "ImageInspect": {"Container", "ContainerConfig"},  # before API 1.45
    "CreateImageInfo": {"stream", "aux"},
    "AuthConfig": {"auth", "identitytoken", "registrytoken"},
}
"""What real Docker reads or writes besides its specification, and what we add to it."""

NOT_SPOKEN = {
    "Resources": {"Init"},
    "ImageInspect": {"Manifests"},
    "ImageManifestSummary": {"ImageData", "AttestationData"},
    "Network": {"Peers"},
    "Volume": {"ClusterVolume", "Status"},
    "VolumeCreateOptions": {"ClusterVolumeSpec"},
    "SystemInfo": {"Containerd", "DiscoveredDevices"},
    "SwarmInfo": {"Nodes", "Managers", "Cluster"},
    "ContainerMemoryStats": {"commitbytes", "commitpeakbytes", "privateworkingset"},
    "ContainerNetworkStats": {"endpoint_id", "instance_id"},
}
"""Swarm's and Windows' fields, and what the specification only says by mistake (Init is HostConfig's)."""


def specified(lines: list[str], name: str) -> set[str]:
    """The properties of a definition, those of what it is ``allOf`` included. (The venv has no YAML parser.)"""
    start = lines.index(f"  {name}:")
    found: set[str] = set()
    depth = -1
    for line in lines[start + 1 :]:
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= 2:
            break
        reference = re.fullmatch(r"\s+- \$ref: ['\"]#/definitions/(\w+)['\"]", line)
        if reference and indent == 6:
            found |= specified(lines, reference[1])
        if depth >= 0 and line.strip() and indent <= depth:
            depth = -1
        if re.fullmatch(r"\s+(?:- )?properties:", line) and depth < 0 and indent in (4, 6, 8):
            depth = indent
        key = re.match(r"(\s+)([\w.]+):", line)
        if depth >= 0 and key and indent == depth + 2:
            found.add(key[2])
    return found


@pytest.fixture(scope="module")
def specification() -> tuple[list[str], bool]:
    for path in SPECIFICATIONS:
        if path.exists():
            return path.read_text().splitlines(), "v1.50" in path.name
    pytest.skip("no API specification here: Debian's golang-github-docker-docker-dev has one")


@pytest.mark.parametrize("name", TYPES)
def test_no_client_misses_a_field(specification: tuple[list[str], bool], name: str) -> None:
    lines, current = specification
    if f"  {name}:" not in lines:
        pytest.skip(f"{name} is newer than this specification")
    wanted = specified(lines, name)
    ours = {field.encode_name for field in msgspec.structs.fields(TYPES[name])}
    assert wanted, "nothing was read from the specification"
    if current:
        assert ours - REAL.get(name, set()) <= wanted
        assert wanted - NOT_SPOKEN.get(name, set()) <= ours
    else:
        # An older one: its fields may be gone by now, but whatever it shares has to be spelled alike.
        lower = {field.lower(): field for field in wanted}
        assert not [field for field in ours if field.lower() in lower and lower[field.lower()] != field]
