// The TypeScript SDK as a client of ours.
//
// `basics URL PROJECT MARKER`: runs, sees progress, resumes, cancels. `session URL`: takes the steps on standard input, a
// JSON list of calls, one after the other, and prints the list of their answers.

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { CallToolResultSchema } from '@modelcontextprotocol/sdk/types.js';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

const [mode, url, project, marker] = process.argv.slice(2);

async function connect(sessionId) {
    const client = new Client({ name: 'tests', version: '1.0.0' });
    const transport = new StreamableHTTPClientTransport(new URL(url), { sessionId });
    await client.connect(transport);
    return { client, transport };
}

const call = (name, args) => ({ method: 'tools/call', params: { name, arguments: args } });
const run = (command) => call('run_command', { project_id: project, command });
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function basics() {
    const { client, transport } = await connect();
    assert((await client.listTools()).tools.length > 100);
    const said = [];
    const listen = ({ message }) => said.push(message);
    const ran = await client.request(run('echo one; sleep 0.5; echo two; exit 3'), CallToolResultSchema, { onprogress: listen });
    assert.equal(ran.structuredContent.exit_code, 3);
    assert.equal(said.join(''), 'one\ntwo\n');

    // A connection that breaks meanwhile is taken up again, and nothing is run twice.
    let token;
    const broken = client.request(run('echo begun; sleep 2; echo ended'), CallToolResultSchema, {
        onprogress: () => {},
        onresumptiontoken: (id) => (token = id),
    });
    broken.catch(() => {});
    while (token === undefined) await sleep(50);
    await sleep(300);
    const { sessionId } = transport;
    await transport.close();
    const again = await connect(sessionId);
    const resumed = await again.client.request(run('echo begun; sleep 2; echo ended'), CallToolResultSchema, {
        resumptionToken: token,
        timeout: 20_000,
    });
    assert.equal(resumed.content[0].text, 'Exit code: 0\n\nSTDOUT:\nbegun\nended\n');

    const aborting = new AbortController();
    const cancelled = again.client.request(run(`sleep ${marker}`), CallToolResultSchema, { signal: aborting.signal });
    cancelled.catch(() => {});
    await sleep(1000);
    aborting.abort('enough');
    await assert.rejects(cancelled);
    await sleep(500);
    await again.transport.terminateSession();
    await again.client.close();
    console.log('done');
}

// `$name` in an argument stands for what an earlier answer had under that name.
function filled(value, known) {
    if (typeof value === 'string' && value.startsWith('$')) return known[value.slice(1)] ?? value;
    if (Array.isArray(value)) return value.map((item) => filled(item, known));
    if (value && typeof value === 'object') {
        return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, filled(item, known)]));
    }
    return value;
}

async function session() {
    const { client } = await connect();
    const [answers, known] = [[], {}];
    for (const step of JSON.parse(readFileSync(0, 'utf8'))) {
        const answer = await client.callTool({ name: step.tool, arguments: filled(step.arguments, known) }, undefined, {
            timeout: 280_000,
            onprogress: () => {},
        });
        const data = answer.structuredContent ?? {};
        if (step.tool === 'create_project') known.project = data.url_id;
        if (data.release) Object.assign(known, { gateway_project: data.release.gateway_project, url: data.release.url });
        const text = answer.content.map((content) => content.text).join('\n');
        answers.push({ text, failed: answer.isError === true, data });
    }
    await client.close();
    console.log(JSON.stringify(answers));
}

await { basics, session }[mode]();
