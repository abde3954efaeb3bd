import picture from "./assets/layers.svg";
import { LayerList } from "./components/LayerList";

export function App() {
  return (
    <>
      <header className="hero">
        <img src={picture} alt="" width="160" height="160" />
        <div>
          <h1>Built inside a sandbox</h1>
          <p>
            The packages of this page were installed, its types checked and its files written by commands that saw
            one folder, read-only system files and nothing else of the machine.
          </p>
        </div>
      </header>
      <main>
        <LayerList />
      </main>
      <footer>
        <p>
          Built in {import.meta.env.MODE} mode with <code>sandboxctl run</code>.
        </p>
      </footer>
    </>
  );
}
