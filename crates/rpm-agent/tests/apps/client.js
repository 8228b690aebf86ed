// client.js KIND PORT: keep-alive clients of https, or streams of h2c or h2, until a line on the input; prints outcomes. It prints a line
// every 300 good responses. A refused stream, or one of a session with GOAWAY, is sent again on another connection and counted as resent.
const [kind, port] = process.argv.slice(2);
const http2 = require('node:http2');
const outcomes = { ok: 0, closes: 0, resent: 0 };
const CLIENTS = 16;
let stopped = false;
let running = CLIENTS;
process.stdin.once('data', () => { stopped = true; });

function count(outcome) {
  outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
  if (outcome === 'ok' && outcomes.ok % 300 === 0) console.log('more');
}

function next(request) {
  // A loop without a pause would take a CPU from the server, and from concurrent tests.
  if (!stopped) return setTimeout(request, Math.random() * 8);
  if (--running > 0) return undefined;
  console.log(JSON.stringify(outcomes));
  return process.exit();
}

const https = require('node:https');
const agent = new https.Agent({ keepAlive: true, ...require('./psk') });
function overTls() {
  const request = https.get({ host: '127.0.0.1', port, agent, timeout: 60_000 }, (res) => {
    if (res.headers.connection === 'close') count('closes');
    res.resume().on('close', () => {
      count(res.complete ? 'ok' : 'truncated');
      next(overTls);
    });
  });
  request.on('timeout', () => request.destroy(new Error('timed out')));
  request.on('error', (error) => {
    count(error.message);
    next(overTls);
  });
}

let session;
function connected() {
  if (session && !session.closed && !session.destroyed) return session;
  const fresh = kind === 'h2'
    ? http2.connect(`https://127.0.0.1:${port}`, require('./psk'))
    : http2.connect(`http://127.0.0.1:${port}`);
  fresh.once('goaway', () => {
    count('closes');
    if (session === fresh) session = undefined;
  });
  fresh.on('error', (error) => count(`session: ${error.message}`));
  session = fresh;
  return fresh;
}

function stream() {
  let request;
  try {
    request = connected().request({ ':path': '/' });
  } catch (error) {
    // Nothing was sent: the session got GOAWAY a moment before.
    session = undefined;
    count(error.code === 'ERR_HTTP2_GOAWAY_SESSION' ? 'resent' : error.code);
    return setImmediate(stream);
  }
  let body = '';
  let settled = false;
  const settle = (outcome) => {
    if (settled) return;
    settled = true;
    clearTimeout(timer);
    count(outcome);
    next(stream);
  };
  const timer = setTimeout(settle, 60_000, 'timed out');
  request.setEncoding('utf8').on('data', (data) => { body += data; });
  request.on('error', () => settle(request.rstCode === http2.constants.NGHTTP2_REFUSED_STREAM ? 'resent' : `code ${request.rstCode}`));
  return request.on('close', () => settle(body === 'ok' ? 'ok' : 'truncated'));
}

for (let i = 0; i < CLIENTS; i += 1) (kind === 'https' ? overTls : stream)();
