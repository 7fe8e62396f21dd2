"""Containers are confined by AppArmor where the kernel enforces it."""

from collections.abc import Iterator

import pytest

from tests.harness.api import Api, frames
from tests.harness.engines import PEERS, Engine, engine
from tests.harness.kernel import need


@pytest.fixture(scope="module")
def confined() -> Iterator[Engine]:
    need("apparmor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{PEERS}/sbin:{PEERS}/usr/sbin", prepend=":")
        with engine("pierd") as made:
            yield made


def inside(api: Api, id: str, command: str, **asked: object) -> str:
    body = {"Cmd": ["sh", "-c", command], "AttachStdout": True, "AttachStderr": True, **asked}
    made = api.ok("POST", f"/containers/{id}/exec", body)
    answer = api.ok("POST", f"/exec/{made.json['Id']}/start", {"Detach": False})
    return b"".join(payload for _, payload in frames(answer.body)).decode()


def test_a_container_has_the_default_profile_unless_another_is_asked_for(confined: Engine) -> None:
    api = confined.api
    try:
        assert "name=apparmor" in api.get("/info")["SecurityOptions"]
        own = "cat /proc/1/attr/apparmor/current /proc/self/attr/apparmor/current"
        plain = api.run("sleep", "1000")
        assert inside(api, plain, own) == "docker-default (enforce)\n" * 2
        assert inside(api, plain, own, Privileged=True) == "docker-default (enforce)\n" * 2
        assert api.inspect(plain)["AppArmorProfile"] == "docker-default"
        capable = {"CapAdd": ["SYS_ADMIN"], "SecurityOpt": ["seccomp=unconfined"]}
        id = api.run("sleep", "1000", HostConfig=capable)
        assert "ermission denied" in inside(api, id, "mount -t tmpfs none /mnt || mount -t tmpfs none /tmp")
        for host in ({"SecurityOpt": ["apparmor=unconfined"]}, {"Privileged": True}):
            free = api.run("sleep", "1000", HostConfig=host)
            assert inside(api, free, own) == "unconfined\n" * 2
        free = api.run(
            "sleep", "1000", HostConfig={**capable, "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"]}
        )
        assert inside(api, free, "mount -t tmpfs none /tmp && echo mounted") == "mounted\n"
        unknown = api.create("true", HostConfig={"SecurityOpt": ["apparmor=nosuch"]})
        refused = api.send("POST", f"/containers/{unknown}/start")
        assert refused.status in (400, 500) and "apparmor failed to apply profile nosuch" in refused.message
    finally:
        confined.forget()
