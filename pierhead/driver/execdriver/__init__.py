"""[execdriver] How a container's processes are started, watched and ended."""
