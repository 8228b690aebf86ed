// Requests to the daemon: HTTP and JSON over the Unix socket in its directory.
'use strict';
const fs = require('node:fs');
const http = require('node:http');
const os = require('node:os');
const path = require('node:path');
const { spawn } = require('node:child_process');
const { binary } = require('./binary');
const { RpmError, fromAnswer, fromCommand } = require('./error');

/** The group or others may write. */
const WRITABLE_BY_OTHERS = 0o022;

/** The daemon's directory, as the command finds it. */
function homeDirectory(env = process.env) {
  return path.resolve(env.RPM_HOME || env.PM2_HOME || path.join(env.HOME || os.homedir(), '.rpm'));
}

const stat = (file) => fs.statSync(file, { throwIfNoEntry: false });

/**
 * What is sent may have secrets, so it must be the daemon that listens: the directory is its owner's alone, and the socket was made by
 * that owner. Returns whether there is a socket.
 */
function checkHome(home) {
  const directory = stat(home);
  if (!directory) return false;
  const own = process.geteuid?.();
  const unsafe = (message) => new RpmError(message, { code: 'UNSAFE_HOME' });
  if (directory.uid !== own && own !== 0) throw unsafe(`${home} belongs to user ${directory.uid}; set RPM_HOME to a directory of your own`);
  if (directory.mode & WRITABLE_BY_OTHERS) throw unsafe(`other users can write to ${home}; look at what is there, then: chmod go-w ${home}`);
  const socket = stat(path.join(home, 'rpm.sock'));
  if (socket && socket.uid !== directory.uid) {
    throw unsafe(`the socket in ${home} belongs to user ${socket.uid}, and not to the daemon of user ${directory.uid}`);
  }
  return Boolean(socket);
}

class Connection {
  constructor({ home, binary: program, env, cwd } = {}) {
    this.home = home ? path.resolve(home) : homeDirectory(env);
    this.env = env;
    this.cwd = cwd;
    this.program = program;
    this.streams = new Set();
  }

  /** Asks the daemon, which is started if none runs. */
  async ask(method, route, body) {
    return this.once(() => this.json(method, route, body));
  }

  /** Asks the daemon if one runs. */
  async json(method, route, body) {
    const response = await this.request(method, route, body);
    const text = await whole(response);
    if (response.statusCode !== 200) throw fromAnswer(response.statusCode, parsed(text));
    return /json/.test(response.headers['content-type']) ? JSON.parse(text) : text;
  }

  /**
   * The lines of an answer that goes on, as objects. `onOpen` is called when its head is there. When `signal` or `close` ends it nothing more
   * is given: neither what has come and was not asked for yet, nor what an answer that has not begun would bring.
   */
  async *lines(method, route, body, { signal, onOpen } = {}) {
    if (signal?.aborted) return;
    const ended = new AbortController();
    const end = () => ended.abort();
    signal?.addEventListener('abort', end);
    this.streams.add(end);
    try {
      const response = await this.once(() => this.request(method, route, body, ended.signal));
      if (response.statusCode !== 200) throw fromAnswer(response.statusCode, parsed(await whole(response)));
      onOpen?.();
      for await (const line of linesOf(response)) {
        if (ended.signal.aborted) return;
        yield JSON.parse(line);
      }
    } catch (error) {
      // It was told to end, or the daemon has ended: then nothing more comes.
      if (!ended.signal.aborted && !['ERR_STREAM_PREMATURE_CLOSE', 'ECONNRESET'].includes(error.code)) throw error;
    } finally {
      signal?.removeEventListener('abort', end);
      this.streams.delete(end);
      end();
    }
  }

  /** Does it, and once more when it has started the daemon because none ran. */
  async once(attempt) {
    try {
      return await attempt();
    } catch (error) {
      if (error.code !== 'NO_DAEMON') throw error;
      await this.startDaemon();
      return attempt();
    }
  }

  /** As the command does it, which takes turns with other clients. */
  async startDaemon() {
    await this.run(['ping']);
  }

  /** On a connection of its own, which costs little here: one that was kept may be that of a daemon that has gone. */
  request(method, route, body, signal) {
    return new Promise((resolve, reject) => {
      if (!checkHome(this.home)) {
        reject(new RpmError(`no daemon runs in ${this.home}`, { code: 'NO_DAEMON' }));
        return;
      }
      const text = body === undefined ? undefined : JSON.stringify(body);
      const headers = text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) };
      const socketPath = path.join(this.home, 'rpm.sock');
      const request = http.request({ socketPath, method, path: route, headers: { host: 'rpm', ...headers }, agent: false, signal });
      request.on('response', resolve);
      request.on('error', (error) => {
        const gone = ['ENOENT', 'ECONNREFUSED'].includes(error.code);
        const message = gone ? `no daemon runs in ${this.home}` : `the daemon in ${this.home} has closed the connection: ${error.message}`;
        reject(new RpmError(message, { code: gone ? 'NO_DAEMON' : 'DISCONNECTED', cause: error }));
      });
      request.end(text);
    });
  }

  /**
   * Runs a command of the program, and returns what it prints. With `inherit` it reads and prints where this process does. With `printsHint`
   * what it prints when it fails is the line to type instead.
   */
  run(args, { input, cwd = this.cwd, env, inherit = false, printsHint = false } = {}) {
    return new Promise((resolve, reject) => {
      const child = spawn(this.program ?? binary(), args, {
        cwd,
        env: { ...process.env, ...this.env, ...env, RPM_HOME: this.home },
        stdio: inherit ? ['inherit', 'inherit', 'pipe'] : 'pipe',
      });
      let [out, err] = ['', ''];
      child.stdout?.setEncoding('utf8').on('data', (text) => (out += text));
      child.stderr.setEncoding('utf8').on('data', (text) => (err += text));
      child.on('error', (cause) => reject(new RpmError(`cannot run ${child.spawnfile}: ${cause.message}`, { code: 'NO_BINARY', cause })));
      const failure = (status, signal) => fromCommand(err, signal ?? `exit code ${status}`, printsHint ? out.trim() : '');
      child.on('close', (status, signal) => (status === 0 ? resolve(out) : reject(failure(status, signal))));
      child.stdin?.on('error', () => {}); // it has ended without reading
      child.stdin?.end(input);
    });
  }

  /** Ends what goes on. */
  close() {
    for (const end of this.streams) end();
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

async function* linesOf(response) {
  response.setEncoding('utf8');
  let rest = '';
  for await (const chunk of response) {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop();
    yield* lines.filter(Boolean);
  }
  if (rest) yield rest;
}

async function whole(response) {
  response.setEncoding('utf8');
  let text = '';
  for await (const chunk of response) text += chunk;
  return text;
}

module.exports = { Connection, homeDirectory };
