"""Conformance suites: what every store promises, as tests that other implementations can run against themselves."""
