"""API types, stream framing and API versions: the only shapes that client and daemon share."""
