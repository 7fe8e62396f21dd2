"""[Server] HTTP on a socket: parsing, routes, hijacked streams."""
