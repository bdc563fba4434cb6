// The TypeScript SDK 2.x against one endpoint. Usage: client.mjs URL TOOL_PREFIX URI_PREFIX ERA; MCP_API_KEY is the key.
// ERA is `auto` (probe for the modern revision) or `legacy` (always the handshake).

import { readFileSync } from "node:fs";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [url, toolPrefix, uriPrefix, mode] = process.argv.slice(2);
const key = process.env.MCP_API_KEY;
const headers = key ? { Authorization: `Bearer ${key}` } : {};
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
const client = new Client({ name: "typescript-sdk-2", version: "1.0.0" }, { versionNegotiation: { mode } });
await client.connect(transport);

const progress = [];
const onprogress = ({ progress: done, total, message }) => progress.push([done, total, message]);
const call = (name, args, options) => client.callTool({ name: `${toolPrefix}${name}`, arguments: args }, options);

const { tools } = await client.listTools();
const added = await call("add", { a: 19, b: 23 });
const counted = await call("countdown", { start: 3 }, { onprogress });
const picture = (await call("picture", {})).content[0];
const failed = await call("fail", { reason: "the kettle is empty" });
const prompt = await client.getPrompt({ name: `${toolPrefix}greet`, arguments: { name: "Ada" } });
const motd = await client.readResource({ uri: `${uriPrefix}fixture://motd` });
const item = await client.readResource({ uri: `${uriPrefix}fixture://items/2` });
const manifest = new URL("node_modules/@modelcontextprotocol/client/package.json", import.meta.url);
const seen = {
  version: JSON.parse(readFileSync(manifest, "utf8")).version,
  protocol: client.getNegotiatedProtocolVersion(),
  tools: tools.map((tool) => tool.name),
  prompts: (await client.listPrompts()).prompts.map((one) => one.name),
  resources: (await client.listResources()).resources.map((one) => one.uri),
  templates: (await client.listResourceTemplates()).resourceTemplates.map((one) => one.uriTemplate),
  add: added.structuredContent,
  countdown: counted.content[0].text,
  progress,
  picture: [picture.mimeType, picture.data],
  fail: [failed.isError, failed.content[0].text],
  prompt: prompt.messages[0].content.text,
  resource: motd.contents[0].text,
  item: item.contents[0].text,
};
await client.close();
console.log(JSON.stringify(seen));
