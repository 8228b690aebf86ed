// The bus of PM2's API: what happens to processes, what they print and what they send.
'use strict';
const { EventEmitter } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');

/** Between two looks at the list, from which it is concluded what has happened. */
const LOOK_MS = 1000;
/** Lines of the past that are looked through for those of an app that has just been started. */
const RECENT_LINES = 200;

const RUNS = new Set(['online', 'launching', 'stopping']);

/** `on('log:out', fn)`; with wildcards, as in `on('log:*', (rest, data) => …)`, the function gets what stands for them first. */
class Bus extends EventEmitter {
  publish(event, data) {
    for (const name of this.eventNames()) {
      if (name === event) this.emit(name, data);
      else if (String(name).includes('*')) this.emit(name, ...(matched(String(name), event)?.concat([data]) ?? [NOTHING]));
    }
  }

  emit(name, ...args) {
    return args[0] === NOTHING ? false : super.emit(name, ...args);
  }

  /** Without a function all are removed. */
  off(name, listener) {
    return listener ? super.off(name, listener) : this.removeAllListeners(name);
  }
}

const NOTHING = Symbol('nothing');

function matched(pattern, event) {
  const source = pattern.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&')).join('(.*)');
  return new RegExp(`^${source}$`).exec(event)?.slice(1);
}

/** Feeds a bus from the daemon until it is closed. */
class Feed {
  constructor(client, jlist) {
    this.client = client;
    this.jlist = jlist;
    this.bus = new Bus();
    this.ended = new AbortController();
    this.known = new Map();
    this.opened = Date.now();
    /** The time of the newest line. */
    this.seen = 0;
  }

  /** Resolves when no message is missed any more. */
  async open() {
    this.known = byId(await this.client.list());
    const { signal } = this.ended;
    const messages = (onOpen) => this.client.messages({ signal, onOpen });
    const logs = (onOpen) => this.client.logs(undefined, { lines: RECENT_LINES, follow: true, signal, onOpen });
    await Promise.all([
      new Promise((resolve, reject) => this.follow(messages, (sent) => this.message(sent), resolve).catch(reject)),
      new Promise((resolve, reject) => this.follow(logs, (line) => this.line(line), resolve).catch(reject)),
    ]);
    this.schedule();
  }

  close() {
    clearTimeout(this.timer);
    this.ended.abort();
    this.bus.removeAllListeners();
  }

  schedule() {
    if (this.ended.signal.aborted) return;
    this.timer = setTimeout(() => this.look().finally(() => this.schedule()), LOOK_MS);
  }

  /** Follows, and again when the daemon has been replaced. What fails before it is open is thrown. */
  async follow(lines, each, opened) {
    const { signal } = this.ended;
    let open = false;
    const onOpen = () => {
      // Lines of the past are sent again when a daemon has been replaced.
      this.opened = Math.max(this.opened, this.seen + 1);
      opened((open = true));
    };
    while (!signal.aborted) {
      try {
        for await (const line of lines(onOpen)) {
          try {
            each(line);
          } catch (error) {
            // A listener's own fault: it is uncaught, as from any other emitter, and the lines go on.
            process.nextTick(() => { throw error; });
          }
        }
      } catch (error) {
        if (!open) throw error;
      }
      // It is not for a listener to start the daemon again.
      do await sleep(LOOK_MS, undefined, { signal }).catch(() => {});
      while (!signal.aborted && !(await this.client.isRunning().catch(() => false)));
    }
  }

  process(id, name, namespace) {
    return { pm_id: id, name, namespace: namespace ?? this.known.get(id)?.namespace ?? 'default', rev: null };
  }

  line({ id, name, stream, line, time_ms: at }) {
    // A line of which the time is not known was there before.
    if (at === undefined || at < this.opened) return;
    this.seen = Math.max(this.seen, at);
    this.bus.publish(`log:${stream}`, { process: this.process(id, name), at, data: `${line}\n` });
  }

  message({ at_ms: at, id, name, namespace, message, lost }) {
    if (lost) return;
    const process = this.process(id, name, namespace);
    const type = typeof message?.type === 'string' ? message.type : undefined;
    const event = type ?? (typeof message?.topic === 'string' ? message.topic : 'process:msg');
    this.bus.publish(event, { at, process, data: message?.data, raw: message });
  }

  /** Looks what has happened since the last look. */
  async look() {
    let list;
    try {
      list = await this.client.connection.json('GET', '/v1/processes');
    } catch (error) {
      if (error.code === 'NO_DAEMON' && !this.gone) this.bus.publish('pm2:kill', { status: 'killed', msg: 'the daemon has ended' });
      this.gone = error.code === 'NO_DAEMON';
      return;
    }
    this.gone = false;
    const [before, now] = [this.known, byId(list)];
    this.known = now;
    const events = [];
    for (const id of new Set([...before.keys(), ...now.keys()])) events.push(...happened(id, before.get(id), now.get(id)));
    if (events.length === 0) return;
    const entries = new Map((await this.jlist().catch(() => [])).map((entry) => [entry.pm_id, entry.pm2_env]));
    for (const { id, event, manually } of events) {
      const { name, namespace, status } = now.get(id) ?? before.get(id);
      const process = entries.get(id) ?? { pm_id: id, name, namespace, status };
      this.bus.publish('process:event', { event, manually, process, at: Date.now() });
    }
  }
}

const byId = (list) => new Map(list.map((process) => [process.id, process]));

/** What has happened to a process between two looks. */
function happened(id, before, now) {
  const events = [];
  const say = (event, manually = false) => events.push({ id, event, manually });
  const ran = before && RUNS.has(before.status) && before.pid !== null;
  const replaced = before && now && (before.pid !== now.pid || before.restarts !== now.restarts);
  if (!before) say('start', true);
  if (ran && (!now || replaced)) say('exit');
  if (before && now && now.restarts > before.restarts) say('restart');
  if (now?.status === 'online' && (before?.status !== 'online' || replaced)) say('online');
  if (before && now && before.status !== now.status) {
    if (now.status === 'stopped') say('stop', true);
    if (now.status === 'errored') say('restart overlimit');
  }
  if (before && !now) say('delete', true);
  return events;
}

module.exports = { Bus, Feed, happened };
