// Drives the official JavaScript SDK: a list of calls comes in on stdin as JSON, the outcomes go
// out on stdout. A call is [path to the method, arguments]; "$0.id" is the id in outcome 0.
import { ElevenLabsClient } from "@elevenlabs/elevenlabs-js";

const { baseUrl, apiKey, calls } = JSON.parse(await new Response(process.stdin).text());
const client = new ElevenLabsClient({ baseUrl, apiKey, maxRetries: 0 });

const outcomes = [];

function filled(value) {
  if (typeof value === "string" && value.startsWith("$")) {
    const [index, ...path] = value.slice(1).split(".");
    return path.reduce((found, name) => found[name], outcomes[Number(index)].value);
  }
  if (Array.isArray(value)) return value.map(filled);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, filled(one)]));
  }
  return value;
}

for (const [path, args] of calls) {
  const names = path.split(".");
  const method = names.pop();
  const resource = names.reduce((found, name) => found[name], client);
  try {
    outcomes.push({ value: (await resource[method](...filled(args))) ?? null });
  } catch (error) {
    outcomes.push({ error: error.name, status: error.statusCode ?? null, body: error.body ?? null });
  }
}
process.stdout.write(JSON.stringify(outcomes));
