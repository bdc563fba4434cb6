"""The Python SDK 1.x against one endpoint. Usage: client.py URL TOOL_PREFIX URI_PREFIX; MCP_API_KEY is the key."""

import asyncio
import json
import os
import sys
from importlib.metadata import version

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from pydantic import AnyUrl


async def main(url: str, tool_prefix: str, uri_prefix: str) -> None:
    progress = []

    async def seen(done, total, message):
        progress.append([done, total, message])

    key = os.environ.get("MCP_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx.AsyncClient(headers=headers, timeout=30) as http,
        streamable_http_client(url, http_client=http) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        hello = await session.initialize()
        added = await session.call_tool(f"{tool_prefix}add", {"a": 19, "b": 23})
        counted = await session.call_tool(f"{tool_prefix}countdown", {"start": 3}, progress_callback=seen)
        picture = (await session.call_tool(f"{tool_prefix}picture", {})).content[0]
        failed = await session.call_tool(f"{tool_prefix}fail", {"reason": "the kettle is empty"})
        prompt = await session.get_prompt(f"{tool_prefix}greet", {"name": "Ada"})
        motd = await session.read_resource(AnyUrl(f"{uri_prefix}fixture://motd"))
        item = await session.read_resource(AnyUrl(f"{uri_prefix}fixture://items/2"))
        print(
            json.dumps(
                {
                    "version": version("mcp"),
                    "protocol": hello.protocolVersion,
                    "tools": [tool.name for tool in (await session.list_tools()).tools],
                    "prompts": [prompt.name for prompt in (await session.list_prompts()).prompts],
                    "resources": [str(one.uri) for one in (await session.list_resources()).resources],
                    "templates": [one.uriTemplate for one in (await session.list_resource_templates()).resourceTemplates],
                    "add": added.structuredContent,
                    "countdown": counted.content[0].text,
                    "progress": progress,
                    "picture": [picture.mimeType, picture.data],
                    "fail": [failed.isError, failed.content[0].text],
                    "prompt": prompt.messages[0].content.text,
                    "resource": motd.contents[0].text,
                    "item": item.contents[0].text,
                }
            )
        )


asyncio.run(main(*sys.argv[1:4]))
