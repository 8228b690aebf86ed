// The agent for Bun: tells the daemon that this process listens, and sets `Connection: close` in responses while the process drains. It is
// preloaded into every Bun process below a worker; in one that never listens it does nothing.
//
// The kernel counts open connections for the daemon, because Bun does not expose idle ones.

const { RPM_AGENT_SOCKET: path, RPM_AGENT_TOKEN: token, RPM_KEEP_ALIVE_MS: kept } = process.env;
const keepAliveMs = kept ? Number(kept) : NaN; // time-out of idle connections, if the user has set it
const RETRY_MS = [100, 1000]; // first and longest pause before reconnecting to the daemon
const LINE_LIMIT = 4096; // longest message of the daemon; real ones are shorter
const ANSWERS = ['fetch', 'error', 'routes', 'static']; // options of Bun.serve that server.reload replaces
const IDLE_S = [10, 255]; // idle time-out of Bun.serve: default and maximum
const ALIBI_MS = 24 * 3600 * 1000; // longer than any drain; without a daemon that would release it the process ends then

let draining = false;
let channel;
let pause = RETRY_MS[0];
let alibi; // keeps the process alive until it is terminated, so that its signal handlers run
const served = new Map(); // servers of Bun.serve that run: what answers there, before any change of ours
const listening = new Set(); // servers of node:http and the like

/** Runs our code: an error in it must never reach the program. */
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
    guarded(followServed)(server, options);
    guarded(connect)();
    return server;
  };
  const { Server } = require('node:net');
  const http = require('node:http');
  const https = require('node:https');
  for (const prototype of new Set([Server.prototype, http.Server.prototype, https.Server.prototype])) {
    follow(prototype);
  }
}

/** Records what a server answers with, which the program may replace at any time, until it stops the server. */
function followServed(server, options) {
  const { reload, stop } = server;
  const replace = (changed) => reload.call(server, changed);
  const define = (name, value) => Object.defineProperty(server, name, { configurable: true, writable: true, value });
  define('reload', function (changed) {
    const answer = reload.call(this, draining ? (guarded(asLast)(changed) ?? changed) : changed);
    guarded(() => Object.assign(served.get(server).answers, answersOf(changed)))();
    return answer;
  });
  define('stop', function (...args) {
    served.delete(server);
    return stop.apply(this, args);
  });
  served.set(server, { answers: answersOf(options), replace });
  if (draining) answerWithClose(served.get(server));
}

/** What can be replaced in a server that runs. Bun keeps what is not given. */
function answersOf(options) {
  const given = ANSWERS.filter((name) => options[name] !== undefined);
  return Object.fromEntries(given.map((name) => [name, options[name]]));
}

/** Bun.serve has one time-out for idle connections and slow responses, so it is only ever raised. 0 means none. */
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

/** Records servers that listen, and marks the responses of draining ones as the last. */
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
  } else if (message.refuse) {
    alibi ??= setTimeout(() => {}, ALIBI_MS);
    for (const server of served.keys()) guarded(() => server.stop())();
    for (const server of listening) guarded(() => server.close(() => {}))();
  } else if (message.release) {
    clearTimeout(alibi);
  }
}

/** Those of node:http are followed by their own class. */
function answerWithClose({ answers, replace }) {
  if (Object.keys(answers).length > 0) replace(asLast(answers));
}

/** The same options, whose answers are the last ones of their connections. */
function asLast(options) {
  const { fetch, error, routes } = options;
  const changed = { ...options };
  if (fetch) changed.fetch = lastAnswer(fetch);
  if (error) changed.error = lastAnswer(error);
  if (routes) changed.routes = Object.fromEntries(Object.entries(routes).map(([at, route]) => [at, lastRoute(route)]));
  return changed;
}

/** A route is a handler, a response, or one of these for each method. Anything else is left unchanged. */
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
