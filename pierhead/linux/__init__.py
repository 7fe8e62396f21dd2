"""Everything that talks to the kernel: constants, ctypes calls, mounts, netlink, nftables, ttys."""
