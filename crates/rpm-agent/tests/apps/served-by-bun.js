// A server of Bun.serve on a port that it prints. With each line of input it replaces what answers by the next version, with RELOADS only
// this part of it, and prints the version. It says that it was interrupted, and ends.
const parts = (version) => ({
  fetch: () => new Response(`fetch ${version}`),
  routes: { '/route': () => new Response(`route ${version}`), '/fails': () => { throw new Error(); } },
  error: () => new Response(`error ${version}`),
});
const part = process.env.RELOADS;
let version = 1;
const server = Bun.serve({ hostname: '127.0.0.1', port: 0, ...parts(version) });

/** Of so many servers that were stopped, how many are still held. */
function held(count) {
  const references = [];
  for (let number = 0; number < count; number += 1) {
    const brief = Bun.serve({ hostname: '127.0.0.1', port: 0, fetch: () => new Response() });
    brief.stop(true);
    references.push(new WeakRef(brief));
  }
  return references;
}

if (process.env.STOPS) {
  const references = held(50);
  setTimeout(() => {
    Bun.gc(true);
    console.log(references.filter((reference) => reference.deref()).length);
  }, 100);
}
process.on('SIGINT', () => {
  console.log('interrupted');
  process.exit(7);
});
process.stdin.on('data', () => {
  version += 1;
  const next = parts(version);
  server.reload(part ? { [part]: next[part] } : next);
  console.log(version);
});
process.stdin.unref?.();
console.log(server.port);
