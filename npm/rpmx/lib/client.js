// The control API as an object, with promises. docs/API.md of rpm has the shapes, which are passed on as they are.
'use strict';
const { Connection } = require('./connection');
const { RpmError, fromAnswer } = require('./error');

const list = (targets) => (Array.isArray(targets) ? targets : [targets]).map(String);
const query = (fields) => {
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  return given.length ? `?${given.map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join('&')}` : '';
};

/** A configuration of apps as the ecosystem file has it, from what a caller may pass to `start`. */
function configuration(what, options = {}) {
  if (Array.isArray(what)) return { apps: what };
  if (typeof what === 'string') return { apps: [{ script: what, ...options }] };
  return what.apps || what.pm2 ? what : { apps: [{ ...what, ...options }] };
}

const isFile = (what) => typeof what === 'string' && /\.(json|json5|ya?ml)$|\.config\.[cm]?[jt]s$/.test(what);

class Client {
  /** `home`: the daemon's directory; `binary`: the native program; `cwd`: where relative paths begin; `env`: instead of process.env. */
  constructor(options = {}) {
    this.connection = new Connection(options);
  }

  get home() {
    return this.connection.home;
  }

  /** Starts the daemon if none runs, and says who answers. */
  ping() {
    return this.connection.ask('GET', '/v1/ping');
  }

  /** Does a daemon run? It is not started. */
  async isRunning() {
    try {
      await this.connection.json('GET', '/v1/ping');
      return true;
    } catch (error) {
      if (error.code === 'NO_DAEMON') return false;
      throw error;
    }
  }

  /** All processes, or with a target those that it names. */
  async list(target, { spec } = {}) {
    const processes = await this.connection.ask('GET', `/v1/processes${query({ spec: spec || undefined })}`);
    if (target === undefined) return processes;
    const ids = new Set((await this.resolve(target)).map(({ id }) => id));
    return processes.filter(({ id }) => ids.has(id));
  }

  describe(target) {
    return this.connection.ask('GET', `/v1/apps/${encodeURIComponent(target)}`);
  }

  known() {
    return this.connection.ask('GET', '/v1/known');
  }

  resolve(targets) {
    return this.connection.ask('POST', '/v1/resolve', { targets: list(targets) });
  }

  /**
   * Starts a script with options, an ecosystem file, an app `{script, …}`, several, or `{apps: […]}`, with the keys of the ecosystem file.
   * Resolves when every worker is ready (`wait: false`: at once) to the processes that were started.
   */
  async start(what, options = {}) {
    const { wait = true, cwd, ...rest } = options;
    const before = await this.list();
    const flags = wait ? [] : ['--no-wait'];
    if (isFile(what)) {
      if (rest.only) flags.push('--only', list(rest.only).join(','));
      if (rest.env) flags.push('--env', rest.env);
      await this.connection.run(['start', what, ...flags], { cwd });
    } else {
      const apps = configuration(what, cwd === undefined ? rest : { cwd, ...rest });
      await this.connection.run(['start', '-', ...flags], { input: JSON.stringify(apps) });
    }
    const seen = new Map(before.map((process) => [process.id, process.started_at_ms]));
    return (await this.list()).filter(({ id, started_at_ms: at }) => seen.get(id) !== at);
  }

  stop(targets, { hard, wait } = {}) {
    return this.change('/v1/actions', { action: 'stop', targets: list(targets), hard, wait });
  }

  delete(targets, { hard, wait } = {}) {
    return this.change('/v1/actions', { action: 'delete', targets: list(targets), hard, wait });
  }

  restart(targets, { hard, env, wait, drained, onStep } = {}) {
    return this.change('/v1/actions', { action: 'restart', targets: list(targets), hard, env, wait }, { drained, onStep });
  }

  /** `onStep` is called for each worker that starts, is ready, drains or is gone; with `drained` it ends when the old ones are gone. */
  reload(targets, { env, wait, drained, onStep } = {}) {
    return this.change('/v1/reload', { targets: list(targets), env, wait }, { drained, onStep });
  }

  rollback(target, { wait, drained, onStep } = {}) {
    return this.change('/v1/rollback', { target: String(target), wait }, { drained, onStep });
  }

  /** `count`: n, '+n', '-n' or 'max'. */
  scale(target, count, { wait } = {}) {
    return this.change('/v1/scale', { target: String(target), count: String(count), wait });
  }

  reset(targets) {
    return this.change('/v1/reset', { targets: list(targets) });
  }

  signal(targets, signal) {
    return this.change('/v1/signal', { targets: list(targets), signal: String(signal) });
  }

  /** Empties log files, of all apps and the daemon without targets; resolves to their names. */
  flush(targets = []) {
    return this.connection.ask('POST', '/v1/flush', { targets: list(targets) });
  }

  reopenLogs() {
    return this.change('/v1/reopen-logs', {});
  }

  /** Writes to the standard input of a process in fork mode. */
  send(target, line) {
    return this.change('/v1/send', { target: String(target), line });
  }

  /** Sends any JSON, which the program gets by `process.on('message')`. */
  message(target, message) {
    return this.change('/v1/message', { target: String(target), message });
  }

  /** Calls an action of the programs (`io.action` of @pm2/io); resolves to their answers. */
  trigger(target, action, params) {
    const given = params === undefined ? undefined : typeof params === 'string' ? params : JSON.stringify(params);
    return this.connection.ask('POST', '/v1/trigger', { target: String(target), action, params: given });
  }

  /** The lines of logs: the last ones, and with `follow` those that come. */
  logs(targets, { lines, follow = false, ...options } = {}) {
    const target = targets === undefined ? undefined : list(targets).join('\n');
    return this.connection.lines('GET', `/v1/logs${query({ target, lines, follow })}`, undefined, options);
  }

  /**
   * What has happened (docs/EVENTS.md): the last events, or those behind the number `after`, or `since` a time (a Date or milliseconds), and
   * with `follow` those that come. `{lost: n}` in the place of events says that so many are not kept any more.
   */
  events(targets, { lines, after, since, follow = false, ...options } = {}) {
    const target = targets === undefined ? undefined : list(targets).join('\n');
    const fields = { target, lines, after, since_ms: since === undefined ? undefined : Number(since), follow };
    return this.connection.lines('GET', `/v1/events${query(fields)}`, undefined, options);
  }

  /** What programs pass to `process.send` from now on. */
  messages(options = {}) {
    return this.connection.lines('GET', '/v1/messages', undefined, options);
  }

  /** The metrics, as Prometheus reads them. */
  metrics() {
    return this.connection.ask('GET', '/metrics');
  }

  doctor() {
    return this.connection.ask('GET', '/v1/doctor');
  }

  /** The apps as they are configured now, in the shape of docs/API.md. */
  apps() {
    return this.connection.ask('GET', '/v1/dump');
  }

  plan(apps) {
    return this.connection.ask('POST', '/v1/plan', { apps });
  }

  /** Makes apps (in the shape of docs/API.md) what they are said to be. */
  apply(apps, { drained, onStep, ...request } = {}) {
    return this.change('/v1/apply', { apps, ...request }, { drained, onStep });
  }

  /** Stops everything, and the daemon. */
  async kill() {
    if (!(await this.isRunning())) return;
    // The command waits until the daemon has gone.
    await this.connection.run(['kill']);
    this.close();
  }

  /** Ends the logs, events and messages that are followed; the client can be used again. */
  close() {
    this.connection.close();
  }

  /** Resolves to `{processes, notes}`. */
  async change(route, body, { drained, onStep } = {}) {
    if (!onStep && !drained) return this.connection.ask('POST', route, body);
    const follow = { drained: Boolean(drained), progress: true };
    for await (const line of this.connection.lines('POST', route, { ...body, follow })) {
      if (line.step) onStep?.(line.step);
      else if (line.done) return line.done;
      else if (line.failed) throw fromAnswer(422, line.failed);
    }
    throw new RpmError('the daemon ended before the change was done', { code: 'DISCONNECTED' });
  }
}

module.exports = { Client, configuration, isFile, list };
