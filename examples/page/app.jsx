// A page that talks to an agent over the relay. It holds no key, no token, and names no agent.
//
//   npm install @elevenlabs/react react react-dom esbuild
//   npx esbuild app.jsx --bundle --format=esm --jsx=automatic --outfile=app.js

import { useState } from "react";
import { createRoot } from "react-dom/client";
import { ConversationProvider, useConversation } from "@elevenlabs/react";

async function startedBy(backend) {
  const reply = await fetch(backend, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: "{}",
  });
  return reply.json();
}

function Desk() {
  const [lines, setLines] = useState([]);
  const [problem, setProblem] = useState(null);
  const add = (who, text) => setLines((before) => [...before, `${who}: ${text}`]);
  const conversation = useConversation({
    onMessage: ({ message, source }) => source !== "user" && add("Desk", message),
    onError: (message) => setProblem(message),
  });

  const start = async () => {
    const { signed_url: signedUrl, code } = await startedBy("/conversation");
    setProblem(code);
    // The URL is good for one start. Leave textOnly out, and it is a call.
    if (signedUrl) conversation.startSession({ signedUrl, textOnly: true });
  };
  const say = (event) => {
    event.preventDefault();
    const field = event.currentTarget.elements.text;
    conversation.sendUserMessage(field.value);
    add("You", field.value);
    field.value = "";
  };

  return (
    <>
      <h1>Ask the desk</h1>
      <p role="status">{conversation.status}</p>
      {problem === "connection_missing" ? (
        <a href="/connect">Connect your account</a>
      ) : (
        problem && <p role="alert">{problem}</p>
      )}
      {conversation.status === "connected" ? (
        <form onSubmit={say}>
          <label>
            Your question <input name="text" autoComplete="off" />
          </label>
          <button>Ask</button>
          <button type="button" onClick={() => conversation.endSession()}>
            End
          </button>
        </form>
      ) : (
        <button onClick={start}>Start</button>
      )}
      <ul>
        {lines.map((line, index) => (
          <li key={index}>{line}</li>
        ))}
      </ul>
    </>
  );
}

createRoot(document.getElementById("desk")).render(
  <ConversationProvider>
    <Desk />
  </ConversationProvider>,
);
