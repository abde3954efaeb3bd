// The newest entries, and a new one.

const { RUN402_API_BASE, RUN402_PROJECT_ID, RUN402_SERVICE_KEY } = process.env;

async function sql(text, params = []) {
    const answer = await fetch(`${RUN402_API_BASE}/projects/v1/admin/${RUN402_PROJECT_ID}/sql`, {
        method: 'POST',
        headers: { authorization: `Bearer ${RUN402_SERVICE_KEY}`, 'content-type': params.length ? 'application/json' : 'text/plain' },
        body: params.length ? JSON.stringify({ sql: text, params }) : text,
    });
    const result = await answer.json();
    if (!answer.ok) throw new Error(result.message);
    return result.rows;
}

export async function GET() {
    return Response.json(await sql('SELECT name, message, written_at FROM entries ORDER BY id DESC LIMIT 50'));
}

export async function POST(request) {
    const { name, message } = await request.json().catch(() => ({}));
    const good = (text, most) => typeof text === 'string' && text.length >= 1 && text.length <= most;
    if (!good(name, 80) || !good(message, 1000)) {
        return Response.json({ error: 'a name of 1 to 80 and a message of 1 to 1000 characters are wanted' }, { status: 400 });
    }
    const [entry] = await sql('INSERT INTO entries (name, message) VALUES ($1, $2) RETURNING id', [name, message]);
    return Response.json(entry, { status: 201 });
}
