"""A stdio MCP server served as Streamable HTTP: what `mcp-gateway wrap` runs.

    HTTP client --> endpoint.py --> session.py   one child process per `Mcp-Session-Id`   --> child.py --> stdio server
                                --> modern.py    one child process for all 2026-07-28 calls --^
                    children.py owns them all: how many, how long, who ends them
                    calls.py gives requests ids of our own; message.py forwards the rest as it is written

stdio has one channel for everything, so nothing on it says which call a server's question belongs to. Two rules follow.
A session has a child of its own, so that no question, log line or piece of state can reach another client. And once a
client has said that it answers questions, its session works on one interactive call at a time: the question is that
call's.
"""
