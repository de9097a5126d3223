// A certified OpenID provider on a free loopback port, for the tests to connect accounts at.
// The first line of stdin is what to make: {"clients": [...], "pushedOnly": false, "host": "..."}.
// The first line of stdout says where it is: {"base": "http://..."}. It lives as long as stdin is
// open.
//
// Who signs in is whatever is typed; the address is that name at example.com. PKCE is compulsory,
// every refresh rotates, and a refresh token that comes twice ends its whole grant.
import { createServer } from "node:http";
import { createInterface } from "node:readline";

import { Provider } from "oidc-provider";

const lines = createInterface({ input: process.stdin });
lines.on("close", () => process.exit());
const { value } = await lines[Symbol.asyncIterator]().next();
const { clients, pushedOnly, host } = JSON.parse(value);

const server = createServer();
await new Promise((ready) => server.listen(0, host, ready));
const base = `http://${host}:${server.address().port}`;

const provider = new Provider(base, {
  clients,
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name"] },
  clientAuthMethods: [
    "client_secret_basic",
    "client_secret_post",
    "client_secret_jwt",
    "private_key_jwt",
    "none",
  ],
  features: {
    devInteractions: { enabled: true },
    deviceFlow: { enabled: true },
    introspection: { enabled: true },
    pushedAuthorizationRequests: {
      enabled: true,
      requirePushedAuthorizationRequests: pushedOnly ?? false,
    },
    revocation: { enabled: true },
    userinfo: { enabled: true },
  },
  findAccount: (_context, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: true, name: id }),
  }),
  pkce: { required: () => true },
  rotateRefreshToken: true,
});
server.on("request", provider.callback());
process.stdout.write(`${JSON.stringify({ base })}\n`);
