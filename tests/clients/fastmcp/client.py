"""The FastMCP client against one endpoint. Usage: client.py URL TOOL_PREFIX URI_PREFIX ERA; MCP_API_KEY is the key.

ERA is `auto` (probe for the modern revision) or `legacy` (always the handshake).
"""

import asyncio
import json
import os
import sys
from importlib.metadata import version

from fastmcp import Client


async def main(url: str, tool_prefix: str, uri_prefix: str, era: str) -> None:
    progress = []

    async def seen(done, total, message):
        progress.append([done, total, message])

    # A string as `auth` is a bearer token to FastMCP.
    async with Client(url, auth=os.environ.get("MCP_API_KEY"), mode=era, timeout=30) as client:
        added = await client.call_tool(f"{tool_prefix}add", {"a": 19, "b": 23})
        counted = await client.call_tool(f"{tool_prefix}countdown", {"start": 3}, progress_handler=seen)
        picture = (await client.call_tool(f"{tool_prefix}picture", {})).content[0]
        failed = await client.call_tool(
            f"{tool_prefix}fail", {"reason": "the kettle is empty"}, raise_on_error=False
        )
        prompt = await client.get_prompt(f"{tool_prefix}greet", {"name": "Ada"})
        motd = await client.read_resource(f"{uri_prefix}fixture://motd")
        item = await client.read_resource(f"{uri_prefix}fixture://items/2")
        print(
            json.dumps(
                {
                    "version": version("fastmcp-slim"),
                    "protocol": client.protocol_version,
                    "tools": [tool.name for tool in await client.list_tools()],
                    "prompts": [prompt.name for prompt in await client.list_prompts()],
                    "resources": [str(one.uri) for one in await client.list_resources()],
                    "templates": [one.uri_template for one in await client.list_resource_templates()],
                    "add": added.structured_content,
                    "countdown": counted.content[0].text,
                    "progress": progress,
                    "picture": [picture.mime_type, picture.data],
                    "fail": [failed.is_error, failed.content[0].text],
                    "prompt": prompt.messages[0].content.text,
                    "resource": motd[0].text,
                    "item": item[0].text,
                }
            )
        )


asyncio.run(main(*sys.argv[1:5]))
