"""What a command is given: the way to the daemon, the configuration, the terminal."""

from __future__ import annotations

import sys

from pierhead.client.api import Api
from pierhead.client.errors import NoDaemon
from pierhead.client.host import Host, Tls, config_folder, read_config, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class GlobalOptions:
    """The flags before the command."""

    def __init__(self) -> None:
        self.hosts: tuple[str, ...] = ()
        self.context = ""
        self.config = ""
        self.version = False
        self.help = False
        self.tls = False
        self.tls_verify = False
        self.tls_files = ("", "", "")


class Session:
    """One run of ``pier``. ``path`` is the command as it was typed."""

    def __init__(self, settings: GlobalOptions, path: str) -> None:
        self.settings = settings
        self.path = path
        self._api: Api | None = None
        self._config: dict[str, Any] | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Docker's config.json."""
        if self._config is None:
            self._config = read_config(config_folder(self.settings.config))
        return self._config

    def host(self) -> Host:
        """The daemon's address."""
        settings = self.settings
        tls = None
        if settings.tls:
            folder = config_folder(settings.config)
            files = [
                given or f"{folder}/{name}"
                for given, name in zip(settings.tls_files, ("ca.pem", "cert.pem", "key.pem"), strict=True)
            ]
            tls = Tls(files[0], files[1], files[2], settings.tls_verify)
        return resolve(settings.hosts, settings.context, settings.config, tls)

    @property
    def api(self) -> Api:
        """The daemon; where none answers and none was asked for, one is started."""
        if self._api is None:
            api = Api(self.host())
            try:
                api.version  # noqa: B018  the ping: whether anybody is there
            except NoDaemon:
                if api.host.configured:
                    raise
                from pierhead.client.embedded import start

                start(api.host)
            self._api = api
        return self._api

    def warn(self, text: str) -> None:
        """A line on standard error."""
        sys.stdout.flush()
        print(text, file=sys.stderr)
