// The agent for Node: tells the daemon that this process listens, and drains it on request.
//
// It is loaded into every Node process below a worker (`--import` in NODE_OPTIONS), so it must not disturb one: until the first listen() it
// only wraps that method, and its socket does not keep the process alive. Node internals that it uses (names with a leading underscore,
// symbols found by their description) may be missing one day. Then a connection is counted but not asked to close, and the daemon's
// deadline applies.
import net from 'node:net';
import { createRequire } from 'node:module';
import { isMainThread } from 'node:worker_threads';

// Test frameworks replace these by fakes.
const { setTimeout, clearTimeout, setInterval, clearInterval, setImmediate, queueMicrotask, performance } = globalThis;
const { RPM_AGENT_SOCKET: path, RPM_AGENT_TOKEN: token, RPM_KEEP_ALIVE_MS: kept } = process.env;

const keepAliveMs = kept && Number(kept); // time-out of idle connections, if the user has set it

const REPORT_MS = 20; // shortest time between reports
const RETRY_MS = [100, 1000]; // first and longest pause before reconnecting to the daemon
const STALLED_REPORTS = 100; // after so many unsent reports the daemon counts as dead
const FRESH_MS = 1000; // time for an accepted client to send a request when new clients are refused
const RAW_MS = 1000; // how long connections that are not HTTP still count after clients were asked to leave (they may be busy)
const LINE_LIMIT = 65536; // longest message of the daemon, in characters
const HEADERS_MS = 1000; // headersTimeout is at least this much longer than keepAliveTimeout

const references = new Set(); // weak references to servers that have listened
const sessions = new Set(); // HTTP/2 sessions
const upgraded = new Map(); // socket: { webSocket, written }
let draining = false;
let refusing = false; // new clients are refused
let parting; // when existing clients were asked to leave, if they were
// Looks since they have had FRESH_MS for their request.
let lateLooks = 0;
let alibi; // keeps the process alive until it is terminated, so that its signal handlers run

/** Runs our code inside the program's: it must never throw there. */
function guarded(task) {
  return function (...args) {
    try {
      return task.apply(this, args);
    } catch {
      return undefined;
    }
  };
}

function inside(object, description) {
  const symbol = Object.getOwnPropertySymbols(object).find((symbol) => symbol.description === description);
  return symbol && object[symbol];
}

// --- Servers: recorded when they start to listen -----------------------------------------------------------------

function install() {
  const original = net.Server.prototype.listen;
  const note = guarded(noteServer);
  net.Server.prototype.listen = function listen(...args) {
    note(this);
    return original.apply(this, args);
  };
}

function noteServer(server) {
  connect();
  if (alive().includes(server)) return;
  references.add(new WeakRef(server));
  keepIdle(server);
  server.on('session', guarded(noteSession));
  for (const event of ['upgrade', 'connect']) followUpgrades(server, event);
}

/**
 * Keeps idle connections for the time that the user has set, even if the program sets another one before or after it listens. What Node
 * adds (`keepAliveTimeoutBuffer`) stays. `headersTimeout` must be longer, or it could end a connection that is still kept; 0 switches it
 * off.
 */
function keepIdle(server) {
  if (!Number.isFinite(keepAliveMs) || typeof server.keepAliveTimeout !== 'number') return;
  let { headersTimeout } = server;
  const property = { configurable: true, enumerable: true };
  Object.defineProperty(server, 'keepAliveTimeout', { ...property, get: () => keepAliveMs, set() {} });
  Object.defineProperty(server, 'headersTimeout', {
    ...property,
    get: () => headersTimeout && Math.max(headersTimeout, keepAliveMs + HEADERS_MS),
    set: (ms) => { headersTimeout = ms; },
  });
}

function alive() {
  for (const reference of references) if (!reference.deref()) references.delete(reference);
  return Array.from(references, (reference) => reference.deref());
}

function noteSession(session) {
  sessions.add(session);
  session.once('close', () => sessions.delete(session));
  if (draining) retire(session);
}

/**
 * Connections that upgrade. Without a listener Node does not upgrade them, so ours exists only while the program has one. It is the first,
 * because the program's answers the handshake: what was written later shows that it was answered.
 */
function followUpgrades(server, event) {
  const note = guarded((request, socket) => {
    const webSocket = /^websocket$/i.test(request.headers.upgrade ?? '');
    upgraded.set(socket, { webSocket, written: socket.bytesWritten });
    socket.once('close', () => upgraded.delete(socket));
  });
  const theirs = () => server.listeners(event).some((listener) => listener !== note);
  const join = guarded(() => {
    if (!theirs() || server.listeners(event)[0] === note) return;
    server.removeListener(event, note).prependListener(event, note);
  });
  join();
  server.on('newListener', (name, listener) => {
    if (name === event && listener !== note) queueMicrotask(join); // only then is it in its place
  });
  server.on('removeListener', (name, listener) => {
    if (name === event && listener !== note && !theirs()) server.removeListener(event, note);
  });
}

// --- The connection to the daemon --------------------------------------------------------------------------------

let channel;
let pause = RETRY_MS[0];

function connect() {
  if (channel) return;
  let received = '';
  said = '';
  channel = net.connect(path);
  channel.unref().setEncoding('utf8');
  channel.on('error', () => {}); // the daemon is gone: `close` follows
  channel.on('close', guarded(reconnect));
  channel.on('data', guarded((text) => {
    pause = RETRY_MS[0];
    const lines = (received + text).split('\n');
    received = lines.pop();
    if (received.length > LINE_LIMIT) channel.destroy();
    lines.forEach(guarded((line) => obey(JSON.parse(line))));
  }));
  send({ hello: { token, pid: process.pid } });
}

function reconnect() {
  const delay = pause * (0.5 + Math.random() / 2);
  pause = Math.min(pause * 2, RETRY_MS[1]);
  channel = undefined;
  setTimeout(guarded(connect), delay).unref();
}

function send(message) {
  channel.write(`${JSON.stringify(message)}\n`);
}

function obey(message) {
  if (message.drain) drain();
  else if (message.close) endLongLived();
  else if (message.refuse) refuse(message.refuse);
  else if (message.release) clearInterval(alibi);
  else if (message.measure) measure(message.measure);
}

// --- Draining ----------------------------------------------------------------------------------------------------

function drain() {
  send({ draining: {} });
  said = '';
  if (!draining) answerWithClose();
  draining = true;
  sessions.forEach(guarded(retire));
  clearTimeout(nextLook);
  look();
}

/** All HTTP/1 responses pass `_storeHeader`; only then is it known whether another request follows. */
function answerWithClose() {
  const { ServerResponse } = createRequire('/')('node:http');
  const store = ServerResponse.prototype._storeHeader;
  ServerResponse.prototype._storeHeader = function _storeHeader(...args) {
    const closes = this.shouldKeepAlive && this.statusCode !== 101 && isLast(this);
    if (closes) this.shouldKeepAlive = false;
    store.apply(this, args);
    if (closes) sayClose(this);
  };
}

/** Node sends nothing after a `Connection: close`, so of pipelined requests only the newest response gets it. */
const isLast = guarded((response) => {
  const newest = response.req?.socket?.parser?.incoming;
  return !newest || newest === response.req;
});

const sayClose = guarded((response) => {
  // The program's own `Connection: keep-alive`, or its removal of the header, overrides shouldKeepAlive.
  if (!/\r\nconnection:[^\r]*\bclose\b/i.test(response._header)) {
    const header = response._header.replace(/\r\n(?:connection|keep-alive):[^\r]*/gi, '');
    response._header = header.replace('\r\n', '\r\nConnection: close\r\n');
  }
  response._last = true;
  const bounded = !response._hasBody || /\r\n(?:content-length|transfer-encoding):/i.test(response._header);
  const { complete, headers } = response.req;
  if (bounded && !complete && (headers['transfer-encoding'] || headers['content-length'] > 0)) closeWhenRead(response);
});

/** Closing while the client still sends its request would reset the connection, and lose the response. */
function closeWhenRead(response) {
  const { req, req: { socket } } = response;
  const done = guarded(() => {
    if (response.writableFinished && req.complete && !socket._httpMessage) socket.destroySoon();
  });
  response._last = false;
  response.once('finish', () => setImmediate(done)); // Node detaches the response after its own listener
  req.once('end', () => setImmediate(done));
}

/**
 * Sends GOAWAY. After a GOAWAY through its API, Node ignores every new stream, even those below the last id, and they hang. So the
 * announcement (last id 2^31-1, RFC 9113 6.8) is written directly to the socket. When the response to a ping arrives, so has every request
 * that was sent before the client saw the announcement, and close() refuses none of them. Under TLS a second writer could abort the
 * process, so there close() is called alone, and the client resends what it refuses.
 */
function retire(session) {
  if (!draining || session.closed || session.destroyed) return;
  const socket = session.encrypted ? undefined : inside(session, 'socket');
  if (!socket) return session.close();
  // Nothing may precede our SETTINGS (RFC 9113 3.4). Once they are acknowledged, they were sent.
  if (session.pendingSettingsAck) return session.once('localSettings', guarded(() => retire(session)));
  socket.write(Buffer.from([0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]));
  if (!session.ping(guarded((error) => error || session.close()))) session.close();
}

// --- Refusing ----------------------------------------------------------------------------------------------------

function refuse({ keeps }) {
  if (!refusing) {
    refusing = true;
    alibi = setInterval(() => {}, 0x7fffffff);
    alive().forEach(guarded(closeListener));
  }
  if (keeps || parting) return;
  parting = performance.now();
  endLongLived();
}

/** Closes the handle. A dummy in its place lets the program's own close() work as before. */
function closeListener(server) {
  if (!server._handle) return;
  const address = server.address();
  server._handle.close();
  const nothing = () => {};
  server._handle = {
    close: (done) => done && setImmediate(done),
    getsockname: (out) => Object.assign(out, address) && 0,
    ref: nothing,
    unref: nothing,
    hasRef: () => false,
  };
}

/**
 * No other worker serves these clients, so waiting for their next request gains nothing. If the event loop was blocked, timers run before
 * what has arrived meanwhile is read; between two looks it is read.
 */
function closeIdle(server) {
  const late = lateLooks > 1;
  const between = new Set(http1Sockets(server, 'idle'));
  for (const socket of http1Sockets(server)) {
    const fresh = socket.bytesRead === 0;
    if (!socket._httpMessage && (fresh ? late : between.has(socket))) socket.destroySoon();
  }
}

// --- Reporting ---------------------------------------------------------------------------------------------------

let said = ''; // the last report
let stalled = 0; // consecutive reports that could not be sent
let nextLook;

/** Reports repeatedly; with very many connections less often, so that it takes at most 2 % of the time. */
function look() {
  const began = performance.now();
  guarded(report)();
  nextLook = setTimeout(guarded(look), Math.max(REPORT_MS, (performance.now() - began) * 50));
  nextLook.unref();
}

function report() {
  if (!channel || channel.destroyed || channel.connecting) return;
  if (channel.writableLength > 0) {
    // A pending write keeps the process alive, even if the socket is unref'd.
    if (++stalled > STALLED_REPORTS) channel.destroy();
    return;
  }
  stalled = 0;
  const open = { connections: 0, idle: 0, requests: 0, upgraded: upgraded.size };
  const servers = alive();
  if (parting) {
    if (performance.now() - parting > FRESH_MS) lateLooks += 1;
    servers.forEach(guarded(closeIdle));
  }
  servers.forEach((server) => countHttp1(server, open));
  sessions.forEach((session) => countHttp2(session, open));
  const late = parting && performance.now() - parting > RAW_MS;
  countConnections(late ? servers.filter((server) => !isRaw(server)) : servers, open);
}

/** A protocol of the program's own, or a connection between its processes. */
function isRaw(server) {
  const isHttp2 = typeof server.updateSettings === 'function';
  return !isHttp2 && !inside(server, 'http.server.connections');
}

function countConnections([server, ...others], open) {
  if (!server) return say(open);
  return server.getConnections(guarded((error, count) => {
    open.connections += count ?? 0;
    countConnections(others, open);
  }));
}

function say(open) {
  const text = JSON.stringify(open);
  if (text === said || !channel || channel.destroyed) return;
  said = text;
  send({ open });
}

function http1Sockets(server, which = 'all') {
  return (inside(server, 'http.server.connections')?.[which]() ?? []).flatMap(({ socket }) => socket ?? []);
}

function countHttp1(server, open) {
  const between = new Set(http1Sockets(server, 'idle'));
  for (const socket of http1Sockets(server)) {
    if (socket._httpMessage) open.requests += 1;
    // For Node, a connection on which nothing was received is in the middle of a request.
    else if (between.has(socket) || socket.bytesRead === 0) open.idle += 1;
  }
}

function countHttp2(session, open) {
  const streams = inside(session, 'state')?.streams?.size ?? 1;
  open.requests += streams;
  if (streams === 0) open.idle += 1;
}

// --- The deadline ------------------------------------------------------------------------------------------------

/** Ends what would never end by itself. Other responses are not cut: their end would look like a complete body. */
function endLongLived() {
  upgraded.forEach(guarded((state, socket) => endUpgraded(socket, state)));
  alive().forEach((server) => http1Sockets(server).forEach(guarded(endEventStream)));
  for (const session of sessions) {
    inside(session, 'state')?.streams?.forEach(guarded((stream) => {
      if (/^text\/event-stream/i.test(stream.sentHeaders?.['content-type'] ?? '')) endQuietly(stream);
    }));
    if (!session.closed) session.close();
  }
}

/** Sends a close frame (1001, going away: RFC 6455 7.4.1) if the handshake was answered, and closes. */
function endUpgraded(socket, { webSocket, written }) {
  if (webSocket && socket.bytesWritten > written && socket.writable) socket.write(Buffer.from([0x88, 2, 0x03, 0xe9]));
  endQuietly(socket);
}

function endEventStream(socket) {
  const response = socket._httpMessage;
  if (!/\r\ncontent-type: *text\/event-stream/i.test(response?._header ?? '')) return;
  response.once('finish', () => socket.end());
  endQuietly(response);
}

/** Ends a stream. The program does not expect errors of its later writes. */
function endQuietly(stream) {
  stream.on('error', () => {});
  stream.end();
}

// --- Figures, while somebody looks -------------------------------------------------------------------------------

let measuring; // the module, from the first request for figures on

/** What measures comes with the first request for it, as a module: most processes never load it. */
function measure({ for_ms, module }) {
  measuring ??= module && import(module);
  const tools = { send, channel: () => channel, guarded, performance, setInterval, clearInterval };
  measuring?.then(({ measure }) => measure(for_ms, tools)).catch(() => {});
}

// --- A channel that ends -----------------------------------------------------------------------------------------

/** True if Node itself called process.disconnect, because the other side closed the channel. */
function isOfNode() {
  const { stackTraceLimit, prepareStackTrace } = Error;
  try {
    Error.stackTraceLimit = 3;
    Error.prepareStackTrace = undefined;
    const [, , , caller] = new Error().stack.split('\n');
    return /\bonread \(node:internal\/child_process/.test(caller);
  } catch {
    return false;
  } finally {
    Object.assign(Error, { stackTraceLimit, prepareStackTrace });
  }
}

/**
 * A worker of node:cluster exits when its channel ends unexpectedly, as it does when the daemon and its keeper have both died. This makes
 * it keep serving: the next daemon finds it.
 */
function outlive() {
  const cluster = createRequire('/')('node:cluster');
  const { disconnect } = process;
  if (!cluster.isWorker || !disconnect) return;
  let ended = false;
  process.disconnect = function (...args) {
    ended = isOfNode();
    return disconnect.apply(this, args);
  };
  const stay = () => {
    if (ended) cluster.worker.exitedAfterDisconnect ??= true;
  };
  process.prependListener('disconnect', guarded(stay));
}

const mark = Symbol.for('rpm.agent');
if (path && token && isMainThread && !process[mark]) {
  Object.defineProperty(process, mark, { value: true });
  install();
  guarded(outlive)();
}
//# sourceURL=rpm-agent
