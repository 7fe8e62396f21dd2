"""[networkdriver] How a container is joined to a network; addresses, ports, names."""
