"""Seccomp: the program decides as libseccomp's would, except where it is stricter on purpose."""

import errno
import json
import struct
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from pierhead.libcontainer import capabilities, seccomp, syscalls
from pierhead.libcontainer.seccomp import ProfileInvalid

AUDIT = {"x86_64": 0xC000003E, "x32": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7}
ALLOW = 0x7FFF0000
EPERM = 0x00050000 | errno.EPERM
ENOSYS = 0x00050000 | errno.ENOSYS
KILL = 0


def run(program: bytes, arch: str, number: int, arguments: tuple[int, ...] = ()) -> int:
    """A classic BPF interpreter, as far as seccomp programs go."""
    full = [argument & 0xFFFFFFFFFFFFFFFF for argument in (*arguments, *([0] * (6 - len(arguments))))]
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, AUDIT[arch], 0, *full)
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        what, true, false, k = code[at]
        at += 1
        match what:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, k)[0]
            case 0x54:
                accumulator &= k
            case 0x05:
                at += k
            case 0x15:
                at += true if accumulator == k else false
            case 0x25:
                at += true if accumulator > k else false
            case 0x35:
                at += true if accumulator >= k else false
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(f"unknown instruction {what:#x}")


def number(name: str, arch: str = "x86_64") -> int:
    return syscalls.tables()[arch][name] + (syscalls.X32_BIT if arch == "x32" else 0)


def default_program(caps: tuple[str, ...] = capabilities.DEFAULT, machine: str = "x86_64") -> bytes:
    program = seccomp.compile(seccomp.default_profile(), caps, machine, (6, 1))
    assert program
    return program


def profile(*rules: dict[str, Any], default: str = "SCMP_ACT_ERRNO", **more: Any) -> str:
    return json.dumps({"defaultAction": default, "syscalls": rules, **more})


# -- libseccomp as the oracle ------------------------------------------------------------------------------------------


def _oracle(text: str, caps: tuple[str, ...]) -> bytes:
    """The same profile through libseccomp, by the same selection of rules."""
    import pyseccomp

    parsed = json.loads(text)
    actions = {"SCMP_ACT_ALLOW": pyseccomp.ALLOW, "SCMP_ACT_KILL_PROCESS": pyseccomp.KILL_PROCESS}

    def action(name: str, returns: int | None) -> int:
        return actions[name] if name in actions else int(pyseccomp.ERRNO(1 if returns is None else returns))

    default = action(parsed["defaultAction"], parsed.get("defaultErrnoRet"))
    made = pyseccomp.SyscallFilter(default)
    for arch in ("X86", "X32"):
        made.add_arch(getattr(pyseccomp.Arch, arch))
    for call in parsed["syscalls"]:
        if not seccomp._applies(call, frozenset(caps), "amd64", (6, 1)):
            continue
        does = action(call["action"], call.get("errnoRet"))
        if does == default:
            continue
        tests = [
            pyseccomp.Arg(one["index"], getattr(pyseccomp, one["op"][9:]), one["value"], one.get("valueTwo", 0))
            for one in call.get("args") or ()
        ]
        for name in call["names"]:
            if _known(name):
                made.add_rule(does, name, *tests)
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def _known(name: str) -> bool:
    """Whether this libseccomp has heard of the call: 2.5.4 is older than some of them."""
    import pyseccomp

    try:
        return bool(pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name) != -1)
    except (OSError, ValueError):
        return False


INTERESTING = {
    "socket": [(family, 1, 0) for family in (0, 1, 2, 10, 16, 17, 37, 38, 39, 40, 41, 45, 2**31)],
    "personality": [(value,) for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF, 1, 0x40000)],
    "clone": [(1 << bit,) for bit in range(32)] + [(0x11,), (0x10000000 | 0x11,), (0x7E020000,)],
}


def _samples() -> Iterator[tuple[str, int, tuple[int, ...]]]:
    for arch in ("x86_64", "x86", "x32"):
        for name, value in syscalls.tables()[arch].items():
            if value > number("removexattrat") or not _known(name):
                continue
            for arguments in INTERESTING.get(name, [(), (3, 7, 40, 1, 2**31, 5)]):
                yield arch, number(name, arch), arguments


@pytest.mark.parametrize("caps", [capabilities.DEFAULT, (), capabilities.NAMES], ids=["default", "none", "all"])
def test_dockers_profile_decides_as_libseccomp_does(caps: tuple[str, ...]) -> None:
    text = seccomp.default_profile()
    ours, theirs = default_program(caps), _oracle(text, caps)
    different = [sample for sample in _samples() if run(ours, *sample) != run(theirs, *sample)]
    assert different == []


OPERATORS = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
]
EDGES = (0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 5 << 32, (5 << 32) + 7, (5 << 32) - 1, (6 << 32), 2**64 - 1)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("value", [0, 7, 2**32, (5 << 32) + 7, 2**64 - 1])
def test_arguments_are_compared_as_libseccomp_does(operator: str, value: int) -> None:
    """mmap's arguments are whole words, so that both halves count."""
    rule = {
        "names": ["mmap"],
        "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 1, "op": operator, "value": value, "valueTwo": value & 0x500000007}],
    }
    text = profile(rule)
    program = seccomp.compile(text, (), "x86_64", (6, 1))
    assert program
    theirs = _oracle(text, ())
    for edge in EDGES:
        assert run(program, "x86_64", number("mmap"), (0, edge)) == run(theirs, "x86_64", number("mmap"), (0, edge)), (
            hex(edge)
        )


def test_several_conditions_must_all_hold_and_several_rules_need_one() -> None:
    def allow(first: int, second: int) -> dict[str, Any]:
        arguments = [{"index": i, "op": "SCMP_CMP_EQ", "value": v} for i, v in enumerate((first, second))]
        return {"names": ["mmap", "munmap"], "action": "SCMP_ACT_ALLOW", "args": arguments}

    text = profile(allow(1, 2), allow(3, 4))
    program, theirs = seccomp.compile(text, (), "x86_64", (6, 1)), _oracle(text, ())
    assert program
    for arguments in ((1, 2), (3, 4), (1, 4), (3, 2), (0, 0)):
        for name in ("mmap", "munmap"):
            assert run(program, "x86_64", number(name), arguments) == run(theirs, "x86_64", number(name), arguments)


def test_a_denying_profile_cannot_be_walked_around_by_socketcall() -> None:
    """CVE-2026-112917: the 32-bit entry with all arguments behind a pointer."""
    text = profile(
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO"}, default="SCMP_ACT_ALLOW", architectures=["SCMP_ARCH_X86"]
    )
    program = seccomp.compile(text, (), "x86_64", (6, 1))
    assert program
    assert run(program, "x86", number("socketcall", "x86"), (1,)) == EPERM
    assert run(program, "x86", number("socketcall", "x86"), (2,)) == ALLOW


# -- stricter than libseccomp on purpose -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [38, 40])
@pytest.mark.parametrize("high", [0, 1 << 32, 0xFFFFFFFF << 32])
def test_vsock_and_alg_sockets_are_refused_whatever_the_unused_half_of_the_register_holds(
    family: int, high: int
) -> None:
    """CVE-2026-31431, CVE-2026-123876: the kernel looks at 32 bits of the family, the filter looked at 64."""
    assert run(default_program(), "x86_64", number("socket"), (high | family, 1, 0)) == EPERM


@pytest.mark.parametrize("family", [1, 2, 10, 16, 17, 37, 39, 41])
def test_other_sockets_work_whatever_the_unused_half_holds(family: int) -> None:
    for high in (0, 1 << 32):
        assert run(default_program(), "x86_64", number("socket"), (high | family, 1, 0)) == ALLOW


def test_new_namespaces_are_refused_without_sys_admin() -> None:
    """CVE-2022-0185: a user namespace gives the rights to reach code that only root could."""
    for high in (0, 1 << 32):
        assert run(default_program(), "x86_64", number("clone"), (high | 0x10000000,)) == EPERM
        assert run(default_program(), "x86_64", number("clone"), (high | 0x11,)) == ALLOW
    assert run(default_program(), "x86_64", number("clone3")) == ENOSYS
    assert run(default_program(capabilities.NAMES), "x86_64", number("clone3")) == ALLOW


REFUSED = (
    "io_uring_setup io_uring_enter io_uring_register userfaultfd keyctl add_key request_key kexec_load kexec_file_load "
    "pivot_root swapon swapoff move_pages migrate_pages nfsservctl ustat sysfs uselib create_module query_module "
    "get_kernel_syms _sysctl mount umount2 setns unshare bpf open_by_handle_at reboot init_module acct iopl"
).split()
ALLOWED = (
    "name_to_handle_at fanotify_mark memfd_create memfd_secret landlock_create_ruleset statmount listmount mknod "
    "pkey_alloc seccomp openat2 pidfd_open chroot ptrace process_vm_readv execve read mkdir futex_waitv"
).split()


@pytest.mark.parametrize("name", REFUSED)
def test_the_host_stays_out_of_reach(name: str) -> None:
    assert run(default_program(), "x86_64", number(name)) == EPERM


@pytest.mark.parametrize("name", ALLOWED)
def test_ordinary_programs_are_not_hindered(name: str) -> None:
    assert run(default_program(), "x86_64", number(name)) == ALLOW


def test_a_call_that_is_newer_than_the_profile_does_not_exist_so_that_c_libraries_fall_back() -> None:
    for name in ("open_tree_attr", "file_getattr"):
        assert run(default_program(), "x86_64", number(name)) == ENOSYS
    assert run(default_program(), "x86", 1000) == ENOSYS
    assert run(default_program(), "x86_64", -1) == ENOSYS
    allow_all = seccomp.compile(profile(default="SCMP_ACT_ALLOW"), (), "x86_64", (6, 1))
    assert allow_all
    assert run(allow_all, "x86_64", 1000) == ALLOW


def test_an_architecture_that_the_profile_does_not_name_is_killed() -> None:
    program = seccomp.compile(profile(), (), "x86_64", (6, 1))
    assert program
    assert run(program, "x86", 1) == KILL
    assert run(program, "x32", number("read", "x32")) == KILL
    assert run(program, "aarch64", 1) == KILL


def test_arm64_has_its_own_numbers() -> None:
    program = default_program(machine="aarch64")
    assert run(program, "aarch64", number("openat", "aarch64")) == ALLOW
    assert run(program, "aarch64", number("keyctl", "aarch64")) == EPERM
    assert run(program, "x86_64", 0) == KILL


def test_every_name_of_the_profile_has_a_number_somewhere() -> None:
    """A name that no table has would be a call that containers miss without anybody noticing."""
    known = set().union(*syscalls.tables().values()) | set(syscalls.MULTIPLEXED)
    foreign = {"arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls", "swapcontext"}
    foreign |= {"riscv_flush_icache", "riscv_hwprobe", "sync_file_range2"}
    foreign |= {"s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr"}
    named = {name for call in json.loads(seccomp.default_profile())["syscalls"] for name in call["names"]}
    assert named - known <= foreign


# -- a user's own profile ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Decoding seccomp profile failed: unexpected end of JSON input"),
        ("nonsense", "Decoding seccomp profile failed: invalid character 'n' looking for beginning of value"),
        ("[]", "Decoding seccomp profile failed: json: cannot unmarshal"),
        (profile(default="SCMP_ACT_MAYBE"), "string SCMP_ACT_MAYBE is not a valid action for seccomp"),
        (profile({"name": "a", "names": ["b"], "action": "SCMP_ACT_ALLOW"}), "both 'name' and 'names' were specified"),
        (
            profile(architectures=["SCMP_ARCH_X86"], archMap=[{"architecture": "SCMP_ARCH_X86_64"}]),
            "both 'architectures' and 'archMap' were specified",
        ),
        (profile(architectures=["pdp11"]), "string pdp11 is not a valid arch for seccomp"),
        (
            profile({"names": ["open"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "op": "LIKE"}]}),
            "string LIKE is not a valid operator for seccomp",
        ),
    ],
)
def test_a_bad_profile_is_refused_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(ProfileInvalid) as caught:
        seccomp.compile(text, ())
    assert str(caught.value).startswith(message)


def test_the_old_form_with_one_name_is_understood() -> None:
    program = seccomp.compile(profile({"name": "read", "action": "SCMP_ACT_ALLOW"}), (), "x86_64", (6, 1))
    assert program
    assert run(program, "x86_64", number("read")) == ALLOW
    assert run(program, "x86_64", number("open")) == ENOSYS
    assert run(program, "x86_64", -1) == ENOSYS


def test_an_empty_profile_confines_nothing() -> None:
    assert seccomp.compile("{}", ()) is None


def test_the_same_profile_is_compiled_once() -> None:
    assert default_program() is default_program()
