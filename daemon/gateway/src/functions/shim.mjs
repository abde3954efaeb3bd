// Runs one function for one request, inside a sandbox.
//
// Standard input: {nonce, entrypoint, request: {method, url, headers: [[name, value]…], body: base64}}.
// Standard output: one line, the nonce, a space and {response: {status, headers, body}} or {error}.
// Everything else that the function prints is its log, and goes to standard error.

import { Console } from 'node:console';
import { readFileSync, writeSync } from 'node:fs';
import http from 'node:http';
import { Writable } from 'node:stream';

const { nonce, entrypoint, request } = JSON.parse(readFileSync(0, 'utf8'));

// Synchronously: what a stream still holds back is lost when the process ends.
function writeAll(fd, bytes) {
    for (let rest = bytes; rest.length > 0; ) {
        try {
            rest = rest.subarray(writeSync(fd, rest));
        } catch (error) {
            if (error.code !== 'EAGAIN') throw error;
            Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
        }
    }
}

// Printing is logging.
for (const name of ['stdout', 'stderr']) {
    const write = (chunk, _encoding, done) => {
        writeAll(2, chunk);
        done();
    };
    Object.defineProperty(process, name, { value: new Writable({ write }), configurable: true, enumerable: true });
}
globalThis.console = new Console(process.stdout, process.stderr);

const base = process.env.RUN402_API_BASE;
const socketPath = process.env.RUN402_API_SOCKET;
const outside = globalThis.fetch;

// There is no network here; the gateway is behind a socket.
globalThis.fetch = async (input, init) => {
    const wanted = new Request(input, init);
    if (!base || !socketPath || !(wanted.url === base || wanted.url.startsWith(`${base}/`))) return outside(wanted);
    const url = new URL(wanted.url);
    const body = Buffer.from(await wanted.arrayBuffer());
    const headers = { ...Object.fromEntries(wanted.headers), host: url.host, 'content-length': String(body.length) };
    return new Promise((resolve, reject) => {
        const options = { socketPath, path: url.pathname + url.search, method: wanted.method, headers, signal: wanted.signal };
        const sent = http.request(options, (answer) => {
            const chunks = [];
            answer.on('data', (chunk) => chunks.push(chunk));
            answer.on('error', reject);
            answer.on('end', () => {
                const empty = [101, 204, 205, 304].includes(answer.statusCode);
                const pairs = [];
                for (let at = 0; at < answer.rawHeaders.length; at += 2) pairs.push([answer.rawHeaders[at], answer.rawHeaders[at + 1]]);
                resolve(new Response(empty ? null : Buffer.concat(chunks), { status: answer.statusCode, headers: pairs }));
            });
        });
        sent.on('error', reject);
        sent.end(body);
    });
};

function reply(value) {
    writeAll(1, Buffer.from(`\n${nonce} ${JSON.stringify(value)}\n`));
    process.exit(0);
}

function handlerOf(module) {
    for (const found of [module[request.method], module.default, module.default?.fetch?.bind(module.default), module.fetch]) {
        if (typeof found === 'function') return found;
    }
    throw new TypeError('the module has no handler: export default async (request) => new Response(…)');
}

process.on('uncaughtException', (error) => {
    console.error(error);
    reply({ error: String(error?.message ?? error) });
});
process.on('unhandledRejection', (error) => {
    throw error;
});

try {
    const handler = handlerOf(await import(new URL(`../${entrypoint.split('/').map(encodeURIComponent).join('/')}`, import.meta.url).href));
    const bodiless = request.method === 'GET' || request.method === 'HEAD';
    const body = bodiless ? undefined : Buffer.from(request.body, 'base64');
    const answer = await handler(new Request(request.url, { method: request.method, headers: request.headers, body }));
    if (!answer || typeof answer.arrayBuffer !== 'function') throw new TypeError('the handler did not return a Response');
    const bytes = Buffer.from(await answer.arrayBuffer());
    reply({ response: { status: answer.status, headers: [...answer.headers], body: bytes.toString('base64') } });
} catch (error) {
    console.error(error);
    reply({ error: String(error?.message ?? error) });
}
