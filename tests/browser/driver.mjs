// A browser on a line: one JSON request a line comes in, one JSON answer a line goes out.
//
// tests/support/browser.py talks to it. A "visitor" is a browser context of its own: cookies, light
// or dark, phone or desktop, with or without JavaScript. Nothing here knows what is tested.

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const peers = createRequire(new URL("../peers/", import.meta.url));
const { chromium } = peers("playwright-core");
const AXE = readFileSync(peers.resolve("axe-core/axe.min.js"), "utf8");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
const TIMEOUT = 60_000;

const [executablePath] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const visitors = new Map();

async function arrive({ visitor, width, height, dark, script, still }) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: dark ? "dark" : "light",
    reducedMotion: still ? "reduce" : "no-preference",
    javaScriptEnabled: script,
    locale: "en-GB",
  });
  context.setDefaultTimeout(TIMEOUT);
  const complaints = [];
  const requests = [];
  const follow = (page) => {
    page.on("console", (message) => {
      if (["error", "warning"].includes(message.type())) complaints.push(message.text());
    });
    page.on("pageerror", (error) => complaints.push(String(error)));
  };
  context.on("request", (request) => requests.push(`${request.method()} ${request.url()}`));
  context.on("page", follow);
  visitors.set(visitor, { context, page: await context.newPage(), complaints, requests });
}

// The element with this label, or with this name and role: as a person would find it.
const labelled = (page, label) => page.getByLabel(label, { exact: true });
const pressable = (page, name) =>
  page.getByRole("button", { name }).or(page.getByRole("link", { name })).first();

// Runs in the page.
const focused = () => {
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  const style = getComputedStyle(element);
  return {
    tag: element.tagName.toLowerCase(),
    text: element.innerText ?? "",
    name: element.getAttribute("name") ?? "",
    outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
  };
};

const deeds = {
  goto: async ({ page }, { url }) => (await page.goto(url))?.status() ?? null,
  back: async ({ page }) => void (await page.goBack()),
  fill: async ({ page }, { label, value }) => void (await labelled(page, label).fill(value)),
  check: async ({ page }, { label }) => void (await labelled(page, label).check()),
  click: async ({ page }, { name }) => void (await pressable(page, name).click()),
  press: async ({ page }, { key }) => void (await page.keyboard.press(key)),
  type: async ({ page }, { text }) => void (await page.keyboard.type(text)),
  wait_for_url: async ({ page }, { pattern }) => {
    await page.waitForURL(new RegExp(pattern));
    return page.url();
  },
  wait_for_text: async ({ page }, { text }) =>
    void (await page.getByText(text).first().waitFor({ state: "visible" })),
  settle: async ({ page }) => void (await page.waitForLoadState("networkidle")),
  text: async ({ page }) => await page.locator("body").innerText(),
  html: async ({ page }) => await page.content(),
  heading: async ({ page }) => await page.getByRole("heading", { level: 1 }).innerText(),
  title: async ({ page }) => await page.title(),
  url: async ({ page }) => page.url(),
  evaluate: async ({ page }, { script }) => await page.evaluate(script),
  focused: async ({ page }) => await page.evaluate(focused),
  cookies: async ({ context }) => await context.cookies(),
  forget: async ({ context }) => void (await context.clearCookies()),
  complaints: async ({ complaints }) => complaints.splice(0),
  requests: async ({ requests }) => requests.splice(0),
  screenshot: async ({ page }, { path, scale }) =>
    void (await page.screenshot({ path, fullPage: true, animations: "disabled", scale })),
  // Evaluated, not added as an element: the page's own policy stays in force.
  axe: async ({ page }) => {
    await page.evaluate(AXE);
    const options = { runOnly: { type: "tag", values: RULES } };
    const found = await page.evaluate((given) => axe.run(document, given), options);
    return found.violations.map(({ id, help, nodes }) => ({
      id,
      help,
      nodes: nodes.map((node) => `${node.html} ${node.failureSummary}`),
    }));
  },
};

async function perform(asked) {
  if (asked.do === "arrive") return await arrive(asked);
  const visitor = visitors.get(asked.visitor);
  if (asked.do === "go_away") {
    visitors.delete(asked.visitor);
    return void (await visitor.context.close());
  }
  return await deeds[asked.do](visitor, asked);
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const answer = { id: asked.id };
  try {
    answer.value = (await perform(asked)) ?? null;
  } catch (error) {
    answer.error = String(error?.message ?? error);
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
