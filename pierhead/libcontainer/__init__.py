"""[libcontainer] From a Spec to a running process: plan, init, cgroups, seccomp, capabilities."""
