"""What the tests, the benchmarks and the demo stand on: networks of their own, engines, clients, a registry."""
