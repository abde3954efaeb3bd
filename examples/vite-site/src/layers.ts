/** One layer of isolation, and what it answers to a command that tries to get past it. */
export interface Layer {
  id: string;
  name: string;
  attempt: string;
  answer: string;
}

/** From the outside in: the order in which a command would meet them. */
export const layers: readonly Layer[] = [
  {
    id: "namespaces",
    name: "Namespaces",
    attempt: "ps aux",
    answer: "lists this command's own processes and no others",
  },
  {
    id: "view",
    name: "A view of its own",
    attempt: "ls /root /home",
    answer: "finds no /root, and one home: its own",
  },
  {
    id: "landlock",
    name: "Landlock",
    attempt: "touch /usr/bin/node",
    answer: "permission denied, whoever asks",
  },
  {
    id: "seccomp",
    name: "System call filter",
    attempt: "mount -t tmpfs none /mnt",
    answer: "operation not permitted",
  },
  {
    id: "limits",
    name: "Limits",
    attempt: ":(){ :|:& };:",
    answer: "stops at the policy's number of processes; the neighbours notice nothing",
  },
];

/** The layers whose name, attempt or answer contains the text, whatever its case. */
export function matching(text: string): readonly Layer[] {
  const wanted = text.trim().toLowerCase();
  return layers.filter(({ name, attempt, answer }) =>
    [name, attempt, answer].some((part) => part.toLowerCase().includes(wanted)),
  );
}
