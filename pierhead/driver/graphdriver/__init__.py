"""[graphdriver] Where layers live and how a root file system is put together."""
