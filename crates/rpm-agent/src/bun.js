// The agent for Bun: tells the daemon that this process listens, and has it answer with `Connection: close` while it is
// drained. A preload of every Bun process below a worker; one that never listens stays silent.
//
// What is open is counted by the kernel for the daemon: Bun does not tell of idle connections.

const { RPM_AGENT_SOCKET: path, RPM_AGENT_TOKEN: token, RPM_KEEP_ALIVE_MS: kept } = process.env;
const keepAliveMs = kept ? Number(kept) : NaN; // of idle connections, if the user has set it
const RETRY_MS = [100, 1000]; // first and longest pause before a connection to the daemon is tried again
const LINE_LIMIT = 4096; // of what the daemon says; it says less
const IDLE_S = [10, 255]; // of Bun.serve: how long a connection may be idle by default, and at most

let draining = false;
let channel;
let pause = RETRY_MS[0];
const served = new Set(); // servers of Bun.serve, with what they were made of
const listening = new Set(); // servers of node:http and the like

/** Nothing of this may ever be the program's trouble. */
function guarded(f) {
  return (...args) => {
    try {
      return f(...args);
    } catch {
      return undefined;
    }
  };
}

function install() {
  const serve = Bun.serve;
  Bun.serve = function (options) {
    guarded(keepIdle)(options);
    const server = serve.call(this, options);
    guarded(() => {
      served.add({ server, options });
      if (draining) answerWithClose({ server, options });
      connect();
    })();
    return server;
  };
  const { Server } = require('node:net');
  const http = require('node:http');
  const https = require('node:https');
  for (const prototype of new Set([Server.prototype, http.Server.prototype, https.Server.prototype])) {
    follow(prototype);
  }
}

/** Bun.serve has one time for idle connections and for slow answers: it becomes longer, never shorter. 0 is for ever. */
function keepIdle(options) {
  const seconds = Math.ceil(keepAliveMs / 1000);
  const { idleTimeout = IDLE_S[0] } = options;
  if (seconds === 0 || (seconds > idleTimeout && idleTimeout !== 0)) {
    options.idleTimeout = Math.min(seconds, IDLE_S[1]);
  }
}

/** The same for node:http, whatever the program sets. */
function keepIdleOf(server) {
  if (Number.isNaN(keepAliveMs)) return;
  Object.defineProperty(server, 'keepAliveTimeout', { configurable: true, get: () => keepAliveMs, set() {} });
}

/** Notes servers when they listen, and has the answers of draining ones say that they are the last. */
function follow(prototype) {
  const { listen, emit } = prototype;
  prototype.listen = function (...args) {
    guarded(() => {
      listening.add(this);
      keepIdleOf(this);
      connect();
    })();
    return listen.apply(this, args);
  };
  prototype.emit = function (name, ...args) {
    if (draining && name === 'request') guarded((response) => response.setHeader('Connection', 'close'))(args[1]);
    return emit.call(this, name, ...args);
  };
}

function connect() {
  if (channel) return;
  let received = '';
  channel = Bun.connect({
    unix: path,
    socket: {
      open(socket) {
        socket.unref();
        socket.write(`${JSON.stringify({ hello: { token, pid: process.pid, counts: false } })}\n`);
      },
      data: guarded((socket, bytes) => {
        pause = RETRY_MS[0];
        const lines = (received + bytes.toString()).split('\n');
        received = lines.pop();
        if (received.length > LINE_LIMIT) socket.end();
        for (const line of lines) guarded(() => obey(JSON.parse(line), socket))();
      }),
      close: guarded(reconnect),
      error() {},
    },
  });
  channel.catch(guarded(reconnect));
}

function reconnect() {
  const delay = pause * (0.5 + Math.random() / 2);
  pause = Math.min(pause * 2, RETRY_MS[1]);
  channel = undefined;
  setTimeout(guarded(connect), delay).unref();
}

function obey(message, socket) {
  if (message.drain) {
    socket.write('{"draining":{}}\n');
    if (!draining) served.forEach(guarded(answerWithClose));
    draining = true;
  } else if (message.resume) {
    draining = false;
  } else if (message.refuse) {
    for (const { server } of served) guarded(() => server.stop())();
    for (const server of listening) guarded(() => server.close(() => {}))();
  }
}

function answerWithClose({ server, options }) {
  const { fetch, routes } = options;
  const changed = { ...options };
  if (fetch) changed.fetch = lastAnswer(fetch);
  if (routes) changed.routes = Object.fromEntries(Object.entries(routes).map(([at, route]) => [at, lastRoute(route)]));
  server.reload(changed);
}

/** A route is a handler, an answer, or one of these for each method. What else there may be is left as it is. */
function lastRoute(route) {
  if (typeof route === 'function') return lastAnswer(route);
  if (route instanceof Response) return lastAnswer(() => route.clone());
  if (route?.constructor !== Object) return route;
  return Object.fromEntries(Object.entries(route).map(([method, handler]) => [method, lastRoute(handler)]));
}

function lastAnswer(handler) {
  return async function (...args) {
    const answer = await handler.apply(this, args);
    if (draining && answer instanceof Response) guarded(() => answer.headers.set('Connection', 'close'))();
    return answer;
  };
}

const mark = Symbol.for('rpm.agent');
if (path && token && Bun.isMainThread && !process[mark]) {
  Object.defineProperty(process, mark, { value: true });
  guarded(install)();
}
