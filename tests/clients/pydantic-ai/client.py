"""Pydantic AI against one endpoint. Usage: client.py URL TOOL_PREFIX URI_PREFIX; MCP_API_KEY is the key.

An agent with the library's own test model calls `add` and `picture` by itself (with the arguments the model makes up
from the schemas, both zero); the other calls name their arguments.
"""

import asyncio
import base64
import json
import os
import sys
from importlib.metadata import version

from pydantic_ai import Agent
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.test import TestModel


async def main(url: str, tool_prefix: str, uri_prefix: str) -> None:
    progress = []

    async def seen(done, total, message):
        progress.append([done, total, message])

    key = os.environ.get("MCP_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else None
    toolset = MCPToolset(url, headers=headers, progress_handler=seen, tool_error_behavior="failed")
    async with toolset:
        model = TestModel(call_tools=[f"{tool_prefix}add"])
        answered = await Agent(model, toolsets=[toolset]).run("Add something.")
        added = await toolset.direct_call_tool(f"{tool_prefix}add", {"a": 19, "b": 23})
        counted = await toolset.direct_call_tool(f"{tool_prefix}countdown", {"start": 3})
        picture = await toolset.direct_call_tool(f"{tool_prefix}picture", {})
        try:
            failed = [False, str(await toolset.direct_call_tool(f"{tool_prefix}fail", {"reason": "the kettle is empty"}))]
        except ToolFailed as error:
            failed = [True, error.message]
        prompt = await toolset.get_prompt(f"{tool_prefix}greet", {"name": "Ada"})
        print(
            json.dumps(
                {
                    "version": version("pydantic-ai-slim"),
                    "protocol": toolset.client.protocol_version,
                    "tools": [tool.name for tool in await toolset.list_tools()],
                    "agent": answered.output,
                    "prompts": [prompt.name for prompt in await toolset.list_prompts()],
                    "resources": [one.uri for one in await toolset.list_resources()],
                    "templates": [one.uri_template for one in await toolset.list_resource_templates()],
                    "add": added,
                    "countdown": counted,
                    "progress": progress,
                    "picture": [picture.media_type, base64.b64encode(picture.data).decode()],
                    "fail": failed,
                    "prompt": prompt.messages[0].content.content,
                    "resource": await toolset.read_resource(f"{uri_prefix}fixture://motd"),
                    "item": await toolset.read_resource(f"{uri_prefix}fixture://items/2"),
                }
            )
        )


asyncio.run(main(*sys.argv[1:4]))
