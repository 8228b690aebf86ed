// A server of KIND http, https, h2c or h2 on a port that it prints. TLS uses a shared key, so there is no certificate that expires.
const KINDS = {
  http: () => require('node:http').createServer(answer),
  https: () => require('node:https').createServer(require('./psk'), answer),
  h2c: () => require('node:http2').createServer(answer),
  h2: () => require('node:http2').createSecureServer(require('./psk'), answer),
};
const held = [];
const routes = {
  '/hold': (req, res) => held.push(res),
  '/release': (req, res) => [...held.splice(0), res].forEach((each) => each.end('ok')),
  '/explicit': (req, res) => res.setHeader('Connection', 'keep-alive').end('ok'),
  '/written': (req, res) => res.writeHead(200, { connection: 'keep-alive', 'content-length': 2 }).end('ok'),
  '/removed': (req, res) => {
    res.removeHeader('Connection');
    res.end('ok');
  },
  '/begun': (req, res) => {
    res.write('o');
    held.push(res);
  },
  '/events': (req, res) => res.writeHead(200, { 'content-type': 'text/event-stream' }).write('data: 1\n\n'),
  '/missing': (req, res) => res.writeHead(404).end('ok'),
  '/busy': (req, res) => {
    const until = performance.now() + 1000;
    while (performance.now() < until);
    globalThis.gc?.();
    res.end('ok');
  },
  '/followed': (req, res) => {
    res.end(String(require('node:diagnostics_channel').channel('http.server.request.start').hasSubscribers));
  },
  '/read': (req, res) => req.resume().on('end', () => res.end('ok')),
};

function answer(req, res) {
  (routes[req.url] ?? ((_, ordinary) => ordinary.end('ok')))(req, res);
}

const server = KINDS[process.env.KIND ?? 'http']();
// Longer than any client here is idle, on a loaded machine.
server.keepAliveTimeout = Number(process.env.KEEP_ALIVE_MS ?? 30_000);
server.on('sessionError', () => {});
// UPGRADES: when the program adds its listener, and how. `never answers` adds one that leaves the handshake open.
const upgrade = (req, socket) => {
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n');
  socket.on('data', (data) => socket.write(data));
};
const upgrades = {
  'before listen': () => server.on('upgrade', upgrade),
  'never answers': () => server.on('upgrade', () => {}),
};
const late = {
  'after listen': () => server.on('upgrade', upgrade),
  'before all others': () => server.prependListener('upgrade', upgrade),
};
/** For longer than a client that has connected has for its request, and until there is a line of input. */
function block() {
  console.log('blocked');
  const until = performance.now() + 1500;
  require('node:fs').readSync(0, Buffer.alloc(1));
  while (performance.now() < until);
}

upgrades[process.env.UPGRADES]?.();
server.listen(0, '127.0.0.1', () => {
  if (process.env.BLOCKS) {
    // As soon as its listener is closed.
    const { close } = server._handle;
    server._handle.close = function closeAndBlock(...args) {
      setImmediate(block);
      return close.apply(this, args);
    };
  }
  late[process.env.UPGRADES]?.();
  console.log(server.address().port);
});
