// One project from its beginning to its end, by the vendor's client. Prints what every step answered, or
// how it failed, as one JSON object.
import { run402 } from '@run402/sdk/node';

const client = run402();
const deploy = client._applyEngine;
const address = process.argv[2];
const steps = {};

async function step(name, call) {
  try {
    steps[name] = (await call()) ?? null;
  } catch (error) {
    steps[name] = { failed: error.message, code: error.code, status: error.status };
  }
}

await step('provision', () => client.projects.provision({ name: 'tour', tier: 'prototype' }));
const project = steps.provision.project_id;
await step('quote', () => client.projects.getQuote());
await step('tier', () => client.tier.status());
await step('tier_set', () => client.tier.set('hobby'));
await step('list', () => client.projects.list());
await step('get', () => client.projects.get(project));
await step('rename', () => client.projects.rename(project, 'renamed'));
await step('usage', () => client.projects.getUsage(project));
await step('sql', () => client.projects.sql(project, 'SELECT 1'));
await step('faucet', () => client.allowance.faucet());
await step('balance', () => client.billing.checkBalance(address));
await step('history', () => client.billing.history(address));

await step('secret_set', () => client.secrets.set(project, 'API_KEY', 'a value'));
await step('secrets', () => client.secrets.list(project));
const code = "export default async () => new Response('ok')";
const config = { timeout: 20, memory: 128 };
await step('function', () => client.functions.deploy(project, { name: 'hello', code, config, schedule: '0 3 * * *' }));
await step('function_list', () => client.functions.list(project));
await step('function_update', () => client.functions.update(project, 'hello', { schedule: null }));
await step('function_logs', () => client.functions.logs(project, 'hello', { tail: 5 }));
await step('function_invoke', () => client.functions.invoke(project, 'hello', {}));

const release = {
  project,
  site: { replace: { 'index.html': '<h1>tour</h1>', 'empty.txt': '' } },
  routes: { replace: [{ pattern: '/api/*', target: { type: 'function', name: 'hello' } }] },
  secrets: { require: ['API_KEY'] },
  subdomains: { set: ['tour'] },
  i18n: { defaultLocale: 'en', locales: ['en', 'de'], detect: ['accept-language'] },
  checks: [{ name: 'home', http: { path: '/' } }],
};
await step('apply', () => deploy.apply(release));
const { operation_id: operation, release_id: first, urls } = steps.apply;
await step('again', () => deploy.apply(release));
await step('operations', () => deploy.list({ project, limit: 2 }));
await step('operation', () => deploy.status(operation, { project }));
await step('events', () => deploy.events(operation, { project }));
await step('resume', () => deploy.resume(operation, { project }));
await step('release', () => deploy.getRelease({ project, releaseId: first }));
await step('diff', () => deploy.diff({ project, from: 'empty', to: 'active' }));
await step('resolve', () => deploy.resolve({ project, url: urls.site }));
await step('dry_run', () => deploy.plan({ project, site: { patch: { delete: ['empty.txt'] } } }, { dryRun: true }));
await step('promote', () => deploy.promote(project, first));

await step('claim', () => client.subdomains.claim('tour2', urls.deployment_id, { projectId: project }));
await step('subdomains', () => client.subdomains.list(project));
await step('give_back', () => client.subdomains.delete('tour2', { projectId: project }));

const bytes = new Uint8Array([1, 2, 3]);
await step('asset', () => client.assets.put(project, 'img/a.png', { bytes }, { metadata: { kind: 'test' } }));
await step('asset_get', async () => {
  const answer = await client.assets.get(project, 'img/a.png');
  return [answer.status, (await answer.arrayBuffer()).byteLength];
});
await step('asset_list', () => client.assets.ls(project, { prefix: 'img/' }));
await step('asset_sign', () => client.assets.sign(project, 'img/a.png', { ttl_seconds: 100 }));
await step('asset_diagnose', () => client.assets.diagnoseUrl(project, steps.asset.url));
await step('asset_delete', () => client.assets.rm(project, 'img/a.png'));

await step('unroute', () => deploy.apply({ project, routes: { replace: [] } }));
await step('function_delete', () => client.functions.delete(project, 'hello'));
await step('active', () => deploy.getActiveRelease({ project }));
await step('function_delete_release', async () => {
  const { operations } = await deploy.list({ project, limit: 1 });
  return operations[0].release_id;
});
await step('secret_delete', () => client.secrets.delete(project, 'API_KEY'));
await step('delete', () => client.projects.delete(project));
await step('projects_after', async () => (await client.projects.list()).projects.length);
console.log(JSON.stringify(steps));
