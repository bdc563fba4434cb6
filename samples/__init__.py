"""Two small MCP servers to try the gateway with: a library of today's protocol and a workshop of yesterday's."""
