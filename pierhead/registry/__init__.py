"""[Registry] The Registry v2 client: auth, manifests, blobs."""
