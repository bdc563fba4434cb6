"""The OpenAI Agents SDK against one endpoint. Usage: client.py URL TOOL_PREFIX URI_PREFIX; MCP_API_KEY is the key.

It has no way to watch progress, so that is missing from what it prints.
"""

import asyncio
import json
import os
import sys
from importlib.metadata import version

from agents.mcp import MCPServerStreamableHttp


async def main(url: str, tool_prefix: str, uri_prefix: str) -> None:
    key = os.environ.get("MCP_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with MCPServerStreamableHttp({"url": url, "headers": headers}, client_session_timeout_seconds=30) as server:
        added = await server.call_tool(f"{tool_prefix}add", {"a": 19, "b": 23})
        counted = await server.call_tool(f"{tool_prefix}countdown", {"start": 3})
        picture = (await server.call_tool(f"{tool_prefix}picture", {})).content[0]
        failed = await server.call_tool(f"{tool_prefix}fail", {"reason": "the kettle is empty"})
        prompt = await server.get_prompt(f"{tool_prefix}greet", {"name": "Ada"})
        motd = await server.read_resource(f"{uri_prefix}fixture://motd")
        item = await server.read_resource(f"{uri_prefix}fixture://items/2")
        print(
            json.dumps(
                {
                    "version": version("openai-agents"),
                    "protocol": server.session.protocol_version,
                    "tools": [tool.name for tool in await server.list_tools()],
                    "prompts": [prompt.name for prompt in (await server.list_prompts()).prompts],
                    "resources": [one.uri for one in (await server.list_resources()).resources],
                    "templates": [one.uri_template for one in (await server.list_resource_templates()).resource_templates],
                    "add": added.structured_content,
                    "countdown": counted.content[0].text,
                    "picture": [picture.mime_type, picture.data],
                    "fail": [failed.is_error, failed.content[0].text],
                    "prompt": prompt.messages[0].content.text,
                    "resource": motd.contents[0].text,
                    "item": item.contents[0].text,
                }
            )
        )


asyncio.run(main(*sys.argv[1:4]))
