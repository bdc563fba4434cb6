"""The command line: `mcp-gateway …`."""
