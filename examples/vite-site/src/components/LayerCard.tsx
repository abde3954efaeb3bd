import { useState } from "react";
import type { Layer } from "../layers";

/** One layer: shows the attempt, and its answer on demand. */
export function LayerCard({ layer }: { layer: Layer }) {
  const [open, setOpen] = useState(false);
  const answerId = `${layer.id}-answer`;
  return (
    <li className="card">
      <h3>{layer.name}</h3>
      <code>$ {layer.attempt}</code>
      <button type="button" aria-expanded={open} aria-controls={answerId} onClick={() => setOpen(!open)}>
        {open ? "Hide the answer" : "What happens?"}
      </button>
      <p id={answerId} hidden={!open}>
        {layer.answer}
      </p>
    </li>
  );
}
