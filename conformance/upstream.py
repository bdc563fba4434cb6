"""Serve the reference upstream: `python -m conformance.upstream --port 9001`."""

import argparse
import warnings

import uvicorn
from mcp.shared.exceptions import MCPDeprecationWarning

from conformance.reference.server import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to bind (default: %(default)s)")
    parser.add_argument("--port", type=int, required=True, help="port to bind; MCP is at /mcp")
    parser.add_argument(
        "--era",
        choices=("auto", "legacy", "modern"),
        default="auto",
        help="which protocol eras to answer: both (default), up to 2025-11-25 only, 2026-07-28 only",
    )
    options = parser.parse_args()
    # Sampling, roots and logging are deprecated, and offering them is what this server is for.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    # h11 strips the white space around header values, as RFC 9110 section 5.5 asks; httptools leaves it at the end.
    # Open streams would otherwise hold up the end for as long as their clients like.
    uvicorn.run(
        build(options.era),
        host=options.host,
        port=options.port,
        log_level="warning",
        http="h11",
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
