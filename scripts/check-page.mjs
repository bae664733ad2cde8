// Visits every page of a running server as a person with a browser does: in light and in dark, on a desk and
// on a phone. Fails on what axe-core calls serious or critical, on a page that is wider than the
// screen, and on anything that the page's own policy blocks. Then clicks the buttons.
// Run by the test that starts the server: make check-page.
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { VOLARY_PAGE_URL: url, VOLARY_PAGE_USER: user, VOLARY_PAGE_PASSWORD: password, VOLARY_PAGE_OUT: out } = process.env;
const load = createRequire(join(out, "package.json"));
const { chromium } = load("playwright-core");
const axe = load("axe-core");

const PAGES = {
  home: "/",
  alerts: "/alerts",
  events: "/events",
  "events-of-people": "/events?people=true",
  account: "/account",
  device: "/devices/dev-1?hours=1",
  promotion: "/promotion?from=development&to=canary",
  release: "/releases/v1.1",
  "first-release": "/releases/v1.0",
  trace: "/trace?package=hello&version=1.1",
  missing: "/builds/9999",
};
const SIZES = { desk: { width: 1280, height: 900 }, phone: { width: 390, height: 844 } };

const faults = [];
let rules = 0;
mkdirSync(join(out, "shots"), { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.VOLARY_CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
  ],
});

const look = async (page, name, path) => {
  await page.goto(url + path);
  await check(page, name);
};

// The page that is there: going to its address again would be another one after a form was sent.
const check = async (page, name) => {
  await page.screenshot({ path: join(out, "shots", `${name}.png`), fullPage: true });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (wide > 0) faults.push(`${name}: ${wide} pixels wider than the screen`);
  for (const detail of await page.locator("main details > summary").all()) await detail.click();
  const { passes, violations } = await page.evaluate(() => window.axe.run(document));
  rules += passes.length;
  for (const { id, impact, nodes } of violations) {
    if (!["serious", "critical"].includes(impact)) continue;
    for (const node of nodes) faults.push(`${name}: ${id}: ${node.html.slice(0, 160)}: ${node.failureSummary}`);
  }
};

const signIn = async (page) => {
  await page.fill("#user", user);
  await page.fill("#password", password);
  await page.click("main button");
};

for (const [size, viewport] of Object.entries(SIZES)) {
  for (const colorScheme of ["light", "dark"]) {
    const context = await browser.newContext({ viewport, colorScheme, ignoreHTTPSErrors: true });
    await context.addInitScript({ content: axe.source });
    const page = await context.newPage();
    page.on("console", (message) => {
      if (/Content Security Policy/.test(message.text())) faults.push(`${page.url()}: ${message.text()}`);
    });
    page.on("pageerror", (error) => faults.push(`${page.url()}: ${error}`));
    await look(page, `login-${size}-${colorScheme}`, "/login");
    // Whoever is not signed in comes to the page that was wanted.
    await page.goto(`${url}/alerts`);
    await page.fill("#user", user);
    await page.fill("#password", `${password}!`);
    await page.click("main button");
    await page.getByText("The user or the password is wrong").waitFor();
    await check(page, `login-wrong-${size}-${colorScheme}`);
    await page.goto(`${url}/alerts`);
    await signIn(page);
    await page.waitForURL(`${url}/alerts`);
    for (const [name, path] of Object.entries(PAGES)) await look(page, `${name}-${size}-${colorScheme}`, path);
    await context.close();
  }
}

// The buttons.
const context = await browser.newContext({ viewport: SIZES.desk, ignoreHTTPSErrors: true });
const page = await context.newPage();
await page.goto(`${url}/login`);
await signIn(page);
await page.waitForURL(`${url}/`);
await page.goto(`${url}/alerts`);
await page.locator("summary", { hasText: "Silence for 2 h" }).first().click();
await page.locator("input[name=reason]").first().fill("looked at by a browser");
// What somebody types survives that the page keeps itself current.
await page.waitForResponse((answer) => answer.url() === `${url}/alerts`);
await page.locator("button", { hasText: "Silence" }).first().click();
await page.getByText("looked at by a browser").first().waitFor();
await page.goto(url + PAGES.promotion);
await page.click("#merge");
await page.waitForURL(`${url}/`);

// Without JavaScript too: sign in, replace the password, sign out.
const plain = await browser.newContext({ javaScriptEnabled: false, ignoreHTTPSErrors: true });
const bare = await plain.newPage();
await bare.goto(`${url}/account`);
await signIn(bare);
await bare.waitForURL(`${url}/account`);
await bare.fill("#old", password);
for (const field of ["#new", "#again"]) await bare.fill(field, `${password} 2`);
await bare.click("main form button.primary");
await bare.waitForURL(`${url}/account`);
await bare.click("header form button");
await bare.waitForURL(`${url}/login`);
await bare.fill("#user", user);
await bare.fill("#password", `${password} 2`);
await bare.click("main button");
await bare.waitForURL(`${url}/`);
await browser.close();

for (const fault of new Set(faults)) console.error(fault);
console.log(`${Object.keys(PAGES).length + 1} pages, each in 4 ways: ${rules} rules held, ${faults.length} faults`);
process.exit(faults.length || !rules ? 1 : 0);
