import { useState } from "react";
import { matching } from "../layers";
import { LayerCard } from "./LayerCard";

/** All layers, and a box that narrows them down. */
export function LayerList() {
  const [text, setText] = useState("");
  const found = matching(text);
  return (
    <section aria-labelledby="layers">
      <h2 id="layers">What stands around a command</h2>
      <label>
        Search <input type="search" value={text} onChange={(event) => setText(event.target.value)} />
      </label>
      {found.length === 0 ? <p>No layer speaks of that.</p> : null}
      <ul className="cards">
        {found.map((layer) => (
          <LayerCard key={layer.id} layer={layer} />
        ))}
      </ul>
    </section>
  );
}
