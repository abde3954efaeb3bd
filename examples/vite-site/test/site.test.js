// Tests the sources, rendered to HTML by Vite and React, and the built folder when there is one.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { createElement } from "react";
import { renderToString } from "react-dom/server";
import { createServer } from "vite";

const root = fileURLToPath(new URL("..", import.meta.url));
let vite;

before(async () => {
  vite = await createServer({
    root,
    appType: "custom",
    logLevel: "error",
    optimizeDeps: { noDiscovery: true },
    server: { middlewareMode: true, ws: false, hmr: false, watch: null },
  });
});

after(() => vite.close());

test("the page shows every layer and hides every answer", async () => {
  const { App } = await vite.ssrLoadModule("/src/App.tsx");
  const { layers } = await vite.ssrLoadModule("/src/layers.ts");
  const html = renderToString(createElement(App));
  assert.match(html, /<h1>Built inside a sandbox<\/h1>/);
  assert.equal(html.match(/class="card"/g).length, layers.length);
  assert.equal(html.match(/hidden=""/g).length, layers.length);
});

test("layers are found by name, attempt and answer", async () => {
  const { layers, matching } = await vite.ssrLoadModule("/src/layers.ts");
  const ids = (text) => matching(text).map((layer) => layer.id);
  assert.deepEqual(ids(""), layers.map((layer) => layer.id));
  assert.deepEqual(ids(" LANDLOCK "), ["landlock"]);
  assert.deepEqual(ids("touch"), ["landlock"]);
  assert.deepEqual(ids("neighbours"), ["limits"]);
  assert.deepEqual(ids("no such layer"), []);
});

test("the built page refers only to files beside it", { skip: !existsSync(`${root}/dist`) && "not built yet" }, () => {
  const html = readFileSync(`${root}/dist/index.html`, "utf8");
  const addresses = [...html.matchAll(/(?:src|href)="([^"]+)"/g)].map((match) => match[1]);
  assert.ok(addresses.some((address) => address.endsWith(".js")));
  assert.ok(addresses.some((address) => address.endsWith(".css")));
  for (const address of addresses) {
    assert.ok(existsSync(`${root}/dist/${address}`), `${address} is missing`);
  }
});
