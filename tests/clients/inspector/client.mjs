// The Inspector's command line against one endpoint. Usage: client.mjs URL TOOL_PREFIX URI_PREFIX ERA; MCP_API_KEY is the
// key. ERA is `modern` (pinned: the Inspector fails where only the handshake is spoken) or `legacy`.
//
// Every question is a run of its own, with a connection of its own, as a person at a terminal would ask it. The command
// line does not say which revision it settled on and shows no progress, so `protocol`, `countdown` and `progress` are
// missing from what is printed; and of the two resources it reads the harder one, which only a template describes.

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const [url, toolPrefix, uriPrefix, era] = process.argv.slice(2);
const program = fileURLToPath(new URL("node_modules/.bin/mcp-inspector", import.meta.url));
const key = process.env.MCP_API_KEY;
const header = key ? ["--header", `Authorization: Bearer ${key}`] : [];
const connection = ["--cli", url, "--transport", "http", "--protocol-era", era, "--format", "json", ...header];
const TOOL_FAILED = 5; // its exit code for a tool result with isError, which is an answer all the same

function ask(...question) {
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [program, ...connection, ...question], (error, stdout, stderr) => {
      if (error && error.code !== TOOL_FAILED) reject(new Error(`${question.join(" ")}: ${stderr || error.message}`));
      else resolve(JSON.parse(stdout).result);
    });
  });
}

const call = (name, args) =>
  ask("--method", "tools/call", "--tool-name", `${toolPrefix}${name}`, "--tool-args-json", JSON.stringify(args));

const [tools, prompts, resources, templates] = await Promise.all(
  ["tools", "prompts", "resources", "resources/templates"].map((kind) => ask("--method", `${kind}/list`)),
);
const [added, picture, failed] = await Promise.all([
  call("add", { a: 19, b: 23 }),
  call("picture", {}),
  call("fail", { reason: "the kettle is empty" }),
]);
const [prompt, item] = await Promise.all([
  ask("--method", "prompts/get", "--prompt-name", `${toolPrefix}greet`, "--prompt-args", "name=Ada"),
  ask("--method", "resources/read", "--uri", `${uriPrefix}fixture://items/2`),
]);
const manifest = new URL("node_modules/@modelcontextprotocol/inspector/package.json", import.meta.url);
console.log(
  JSON.stringify({
    version: JSON.parse(readFileSync(manifest, "utf8")).version,
    tools: tools.tools.map((tool) => tool.name),
    prompts: prompts.prompts.map((one) => one.name),
    resources: resources.resources.map((one) => one.uri),
    templates: templates.resourceTemplates.map((one) => one.uriTemplate),
    add: added.structuredContent,
    picture: [picture.content[0].mimeType, picture.content[0].data],
    fail: [failed.isError, failed.content[0].text],
    prompt: prompt.messages[0].content.text,
    item: item.contents[0].text,
  }),
);
