"""langchain-mcp-adapters against one endpoint. Usage: client.py URL TOOL_PREFIX URI_PREFIX; MCP_API_KEY is the key.

The tools are called as LangChain tools, that is after the adapter has rebuilt them from their schemas. It has no way to
list prompts or templates of its own, so those go through the session it hands out.
"""

import asyncio
import json
import os
import sys
from importlib.metadata import version

from langchain_mcp_adapters.callbacks import Callbacks
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.prompts import load_mcp_prompt
from langchain_mcp_adapters.resources import load_mcp_resources
from langchain_mcp_adapters.sessions import create_session
from langchain_mcp_adapters.tools import load_mcp_tools


async def main(url: str, tool_prefix: str, uri_prefix: str) -> None:
    progress = []

    async def seen(done, total, message, context):
        progress.append([done, total, message])

    key = os.environ.get("MCP_API_KEY")
    connection = {"transport": "streamable_http", "url": url}
    if key:
        connection["headers"] = {"Authorization": f"Bearer {key}"}

    # Each of these tools opens a session of its own for its one call, which is the adapter's default.
    client = MultiServerMCPClient({"server": connection}, callbacks=Callbacks(on_progress=seen))
    alone = {tool.name: tool for tool in await client.get_tools()}
    counted = await alone[f"{tool_prefix}countdown"].ainvoke({"start": 3})

    async with create_session(connection) as session:
        hello = await session.initialize()
        tools = {tool.name: tool for tool in await load_mcp_tools(session)}

        async def call(name, arguments):
            call = {"type": "tool_call", "id": "1", "name": f"{tool_prefix}{name}", "args": arguments}
            return await tools[f"{tool_prefix}{name}"].ainvoke(call)

        added = await call("add", {"a": 19, "b": 23})
        picture = (await call("picture", {})).content[0]
        failed = await call("fail", {"reason": "the kettle is empty"})
        prompt = await load_mcp_prompt(session, f"{tool_prefix}greet", arguments={"name": "Ada"})
        motd = await load_mcp_resources(session, uris=f"{uri_prefix}fixture://motd")
        item = await load_mcp_resources(session, uris=[f"{uri_prefix}fixture://items/2"])
        print(
            json.dumps(
                {
                    "version": version("langchain-mcp-adapters"),
                    "protocol": hello.protocolVersion,
                    "tools": list(tools),
                    "prompts": [prompt.name for prompt in (await session.list_prompts()).prompts],
                    "resources": [str(one.uri) for one in (await session.list_resources()).resources],
                    "templates": [one.uriTemplate for one in (await session.list_resource_templates()).resourceTemplates],
                    "add": added.artifact["structured_content"],
                    "countdown": counted[0]["text"],
                    "progress": progress,
                    "picture": [picture["mime_type"], picture["base64"]],
                    "fail": [failed.status == "error", failed.content[0]["text"]],
                    "prompt": prompt[0].content,
                    "resource": motd[0].as_string(),
                    "item": item[0].as_string(),
                }
            )
        )


asyncio.run(main(*sys.argv[1:4]))
