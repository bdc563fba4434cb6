"""The official conformance suites, run against a reference upstream directly and through the gateway."""
