"""Further processes in a running container."""

from msgspec import field

from pierhead.wire.codec import Message, always, always_new


class ExecConfig(Message):
    """POST /containers/{id}/exec."""

    user: str = always("")
    privileged: bool = always(False)
    tty: bool = always(False)
    console_size: list[int] | None = None
    attach_stdin: bool = always(False)
    attach_stderr: bool = always(False)
    attach_stdout: bool = always(False)
    detach: bool = always(False)
    detach_keys: str = always("")
    env: list[str] | None = always(None)
    working_dir: str = always("")
    cmd: list[str] | None = always(None)


class ExecCreateResponse(Message):
    """The new exec instance's id."""

    id: str = always("")


class ExecStartConfig(Message):
    """POST /exec/{id}/start."""

    detach: bool = always(False)
    tty: bool = always(False)
    console_size: list[int] | None = None


class ProcessConfig(Message, rename=None):
    """The process of an exec instance."""

    tty: bool = always(False)
    entrypoint: str = always("")
    arguments: list[str] = field(default_factory=lambda: [])  # noqa: PIE807 (list itself would be left out when empty)
    privileged: bool | None = None
    user: str = ""


class ExecInspectResponse(Message):
    """Everything about an exec instance; exit_code None while it runs."""

    id: str = always("", name="ID")
    running: bool = always(False)
    exit_code: int | None = always(None)
    process_config: ProcessConfig = always_new(ProcessConfig)
    open_stdin: bool = always(False)
    open_stderr: bool = always(False)
    open_stdout: bool = always(False)
    can_remove: bool = always(False)
    container_id: str = always("")
    detach_keys: str = always("")
    pid: int = always(0)
