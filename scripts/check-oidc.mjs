// Signs in to a running server through a real provider, oidc-provider of npm, with a real browser.
// Run by the test that starts the server: make check-page.
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const { VOLARY_PAGE_URL: url, VOLARY_PAGE_OUT: out, VOLARY_OIDC_PORT: port, VOLARY_OIDC_SECRET: secret } = process.env;
const load = createRequire(join(out, "package.json"));
const { chromium } = load("playwright-core");
const { default: Provider } = await import(pathToFileURL(load.resolve("oidc-provider")));

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [{
    client_id: "volary", client_secret: secret, redirect_uris: [`${url}/login/oidc/callback`],
    grant_types: ["authorization_code"], response_types: ["code"],
  }],
  // By the specification the claims are not in the ID token, but where the access token is good for.
  claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["groups"] },
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: id, email: `${id}@example.com`, email_verified: true, groups: ["ops"] }),
  }),
  pkce: { required: () => true },
  cookies: { keys: ["test"] },
});
provider.on("server_error", (_, error) => console.error(error));
const listening = provider.listen(port, "127.0.0.1");

const browser = await chromium.launch({
  executablePath: process.env.VOLARY_CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
});
const context = await browser.newContext({ ignoreHTTPSErrors: true });
// The provider's own pages ask for fonts from elsewhere.
await context.route(/^https:\/\/(?!localhost)/, (route) => route.abort());
const page = await context.newPage();
await page.goto(`${url}/account`);
await page.click("a.provider");
await page.fill("input[name=login]", "alice");
await page.fill("input[name=password]", "any");
await page.click("button[type=submit]");
await page.locator("button[type=submit]").click();
await page.waitForURL(`${url}/account`);
await page.screenshot({ path: join(out, "shots", "account-oidc.png"), fullPage: true });
const text = await page.locator("main").innerText();
await browser.close();
listening.closeAllConnections();
listening.close();
if (!/alice@example\.com/.test(text) || !/Role operator, signed in with single sign-on/.test(text)) {
  console.error(text);
  process.exit(1);
}
console.log("a browser signed in through a real provider");
process.exit(0);
