"""An upstream that offers everything the official conformance suites ask a server for, in both protocol eras."""
