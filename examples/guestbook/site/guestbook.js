const list = document.querySelector('#entries');
const form = document.querySelector('#form');
const said = document.querySelector('#said');

function item({ name, message, written_at }) {
    const entry = document.createElement('li');
    const who = document.createElement('strong');
    const text = document.createElement('p');
    who.textContent = `${name}, ${new Date(written_at).toLocaleString()}`;
    // As text: what guests write is never markup.
    text.textContent = message;
    entry.append(who, text);
    return entry;
}

async function show() {
    const answer = await fetch('api/entries');
    list.replaceChildren(...(await answer.json()).map(item));
}

form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const answer = await fetch('api/entries', { method: 'POST', body: JSON.stringify(Object.fromEntries(new FormData(form))) });
    said.textContent = answer.ok ? 'Thank you.' : (await answer.json()).error;
    if (answer.ok) form.reset();
    await show();
});

await show();
