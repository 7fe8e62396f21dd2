"""Whole nftables rulesets as text, through libnftables or the ``nft`` program. Source: libnftables(3).

A ruleset is loaded in one transaction: all of it or nothing.
"""

import ctypes
import errno
import os
import subprocess
import threading

OUTPUT_HANDLE = 1 << 3
"""NFT_CTX_OUTPUT_HANDLE of nftables/libnftables.h: print the numbers by which rules are deleted."""


class Rulesets:
    """Runs nft's own language. Uses libnftables if it is there, else the ``nft`` program."""

    def __init__(self) -> None:
        """Nothing is loaded before the first use."""
        self._lock = threading.Lock()
        self._library: ctypes.CDLL | None = None
        self._absent = False

    def _load(self) -> ctypes.CDLL | None:
        if self._library is None and not self._absent:
            try:
                library = ctypes.CDLL("libnftables.so.1")
            except OSError:
                self._absent = True
                return None
            library.nft_ctx_new.restype = ctypes.c_void_p
            library.nft_ctx_new.argtypes = [ctypes.c_uint32]
            library.nft_ctx_free.argtypes = [ctypes.c_void_p]
            for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
                getattr(library, name).argtypes = [ctypes.c_void_p]
            for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
                getattr(library, name).argtypes = [ctypes.c_void_p]
                getattr(library, name).restype = ctypes.c_char_p
            library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
            library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
            library.nft_run_cmd_from_buffer.restype = ctypes.c_int
            self._library = library
        return self._library

    def run(self, commands: str, *, handles: bool = False) -> str:
        """Execute commands as one transaction; returns what they print. Raises OSError with nft's own words.

        handles: print what is listed with its handles.

        A context is made for each call: it holds a socket and a cache of whatever tables exist, and calls are rare.
        """
        with self._lock:
            library = self._load()
            if library is None:
                return self._program(commands, handles)
            context = library.nft_ctx_new(0)
            if not context:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "libnftables")
            try:
                library.nft_ctx_buffer_output(context)
                library.nft_ctx_buffer_error(context)
                if handles:
                    library.nft_ctx_output_set_flags(context, OUTPUT_HANDLE)
                failed = library.nft_run_cmd_from_buffer(context, commands.encode())
                if failed:
                    said = (library.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace").strip()
                    raise OSError(errno.EINVAL, said or "failed", "libnftables")
                return (library.nft_ctx_get_output_buffer(context) or b"").decode(errors="replace")
            finally:
                library.nft_ctx_free(context)

    def _program(self, commands: str, handles: bool) -> str:
        options = ["-a"] if handles else []
        try:
            done = subprocess.run(
                ["nft", *options, "-f", "-"], input=commands, capture_output=True, text=True, timeout=60, check=False
            )
        except FileNotFoundError as error:
            raise OSError(
                errno.ENOENT, "neither libnftables.so.1 nor the nft program is installed (apt install nftables)", "nft"
            ) from error
        if done.returncode:
            raise OSError(errno.EINVAL, done.stderr.strip() or "failed", "nft")
        return done.stdout
