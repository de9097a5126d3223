// Holds a conversation with the official JavaScript client, in text. What to do comes in on stdin as
// JSON, what happened goes out on stdout. The agent greets first; what stands in "say" is said one
// after the other, each after the answer to the one before.
import { Conversation } from "@elevenlabs/client";
import WebSocket from "ws";

globalThis.WebSocket = WebSocket;

const { options, say } = JSON.parse(await new Response(process.stdin).text());
const heard = [];
const tools = [];
let details = null;
let wake = () => {};
let ended = false;

async function until(count) {
  while (heard.length < count && !ended) {
    await new Promise((resolve) => {
      wake = resolve;
    });
  }
}

try {
  const conversation = await Conversation.startSession({
    textOnly: true,
    ...options,
    clientTools: {
      pick: async (parameters) => {
        tools.push(parameters);
        return "blue";
      },
    },
    onMessage: ({ message, source }) => {
      if (source !== "ai" && source !== "agent") return;
      heard.push(message);
      wake();
    },
    onDisconnect: (found) => {
      details = found;
      ended = true;
      wake();
    },
  });
  for (const [index, text] of say.entries()) {
    await until(index + 1);
    conversation.sendUserMessage(text);
  }
  await until(say.length + 1);
  const id = conversation.getId();
  await conversation.endSession();
  console.log(JSON.stringify({ id, heard, tools, details }));
} catch (error) {
  console.log(JSON.stringify({ error: error.message, code: error.closeCode ?? null, heard, details }));
}
process.exit(0);
