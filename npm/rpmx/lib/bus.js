// The bus of PM2's API: what happens to processes, what they print and what they send.
'use strict';
const { EventEmitter } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');

/** Between two looks whether there is a daemon again. */
const LOOK_MS = 1000;
/** Lines of the past that are looked through for those of an app that has just been started. */
const RECENT_LINES = 200;

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
    /** The list in PM2's shape, by id: of those that are gone, too, as they were. */
    this.entries = new Map();
    /** Events that wait for the list. */
    this.events = [];
    /** Instances that a command restarts. */
    this.asked = new Set();
    this.opened = Date.now();
    /** The time of the newest line. */
    this.seen = 0;
  }

  /** Resolves when no message is missed any more. */
  async open() {
    await this.refresh();
    const { signal } = this.ended;
    const begun = this.opened;
    const from = () => (this.event === undefined ? { since: begun } : { after: this.event });
    const events = (onOpen) => this.client.events(undefined, { ...from(), follow: true, signal, onOpen });
    const messages = (onOpen) => this.client.messages({ signal, onOpen });
    const logs = (onOpen) => this.client.logs(undefined, { lines: RECENT_LINES, follow: true, signal, onOpen });
    await Promise.all([
      new Promise((resolve, reject) => this.follow(events, (event) => this.happens(event), resolve).catch(reject)),
      new Promise((resolve, reject) => this.follow(messages, (sent) => this.message(sent), resolve).catch(reject)),
      new Promise((resolve, reject) => this.follow(logs, (line) => this.line(line), resolve).catch(reject)),
    ]);
  }

  close() {
    this.ended.abort();
    this.bus.removeAllListeners();
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
        // There is no such event any more: the files were removed.
        if (error.code === 'FAILED') this.event = undefined;
      }
      // It is not for a listener to start the daemon again.
      do await sleep(LOOK_MS, undefined, { signal }).catch(() => {});
      while (!signal.aborted && !(await this.isRunning()));
    }
  }

  async isRunning() {
    const runs = await this.client.isRunning().catch(() => false);
    if (runs) this.gone = false;
    else this.killed();
    return runs;
  }

  /** There is no daemon any more. */
  killed() {
    if (this.gone || this.ended.signal.aborted) return;
    this.gone = true;
    this.bus.publish('pm2:kill', { status: 'killed', msg: 'the daemon has ended' });
  }

  process(id, name, namespace) {
    return { pm_id: id, name, namespace: namespace ?? this.entries.get(id)?.namespace ?? 'default', rev: null };
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

  /** Something has happened. What came meanwhile is looked up in the list together. */
  happens(event) {
    if (event.lost) return;
    this.event = event.seq;
    if (event.id === undefined && event.kind !== 'daemon_stopped') return;
    this.events.push(event);
    this.publishing ??= this.publishAll().finally(() => (this.publishing = undefined));
  }

  async publishAll() {
    while (this.events.length > 0) {
      const events = this.events.splice(0);
      // The list is asked of a daemon that goes on: where none runs, asking would start one.
      const ends = events.some(({ kind, cause }) => kind === 'daemon_stopped' || cause === 'shutdown');
      if (!ends) await this.refresh().catch(() => {});
      for (const event of events) {
        try {
          this.publishEvent(event);
        } catch (error) {
          process.nextTick(() => { throw error; });
        }
      }
    }
  }

  publishEvent(event) {
    if (event.kind === 'daemon_stopped') return this.killed();
    const { id, app, namespace, at_ms: at } = event;
    const process = this.entries.get(id) ?? { pm_id: id, name: app, namespace };
    for (const [name, manually] of happened(event, this.asked.has(id))) {
      this.bus.publish('process:event', { event: name, manually, process, at });
    }
    if (event.kind === 'stopped' && ['restart', 'stop'].includes(event.cause)) this.asked.add(id);
    else if (event.kind === 'started') this.asked.delete(id);
    else if (event.kind === 'deleted') this.entries.delete(id);
  }

  /** Where no daemon runs any more, what was known last is what there is. */
  async refresh() {
    if (this.gone) return;
    for (const { pm_id: id, pm2_env: entry } of await this.jlist()) this.entries.set(id, entry);
  }
}

/** PM2's names for an event, each with whether a command was its cause. */
function happened({ kind, restarts, candidate, cause }, asked) {
  switch (kind) {
    case 'started':
      if (candidate) return [];
      return [restarts === 0 ? ['start', true] : ['restart', asked]];
    case 'ready':
      return [['online', false]];
    case 'candidate_ready':
      return [['reload', true], ['online', false]];
    case 'crashed':
      return [['exit', false]];
    case 'exited':
      return [['exit', false], ['stop', false]];
    case 'stopped':
      return cause === 'stop' ? [['exit', false], ['stop', true]] : [['exit', false]];
    case 'errored':
      return [['restart overlimit', false]];
    case 'deleted':
      return [['delete', true]];
    default:
      return [];
  }
}

module.exports = { Bus, Feed, happened };
