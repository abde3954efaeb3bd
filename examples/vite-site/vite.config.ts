import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  // Relative addresses: the built folder works at any path of any server.
  base: "./",
  // Every picture stays a file of its own, however small.
  build: { assetsInlineLimit: 0 },
});
