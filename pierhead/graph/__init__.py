"""[Graph] Images and layers, names, and GraphDB, the single source of truth."""
