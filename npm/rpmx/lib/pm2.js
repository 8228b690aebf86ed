// PM2's programmatic calls: the same names, arguments and results, carried out by rpm.
'use strict';
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { spawnSync } = require('node:child_process');
const { binary } = require('./binary');
const { Feed } = require('./bus');
const { Client, configuration, isFile, list } = require('./client');
const { RpmError } = require('./error');

/** What PM2 says of a target that names nothing. */
const NOT_FOUND = 'process or namespace not found';

/** Splits off the callback, which is the last argument that is a function. */
function split(args) {
  const at = args.findIndex((arg) => typeof arg === 'function');
  return at < 0 ? [args, undefined] : [args.slice(0, at), args[at]];
}

/** A method that takes a callback or returns a promise. What the callback throws is thrown, not swallowed by the promise. */
function either(method) {
  return function (...all) {
    const [args, callback] = split(all);
    const result = method.apply(this, args).catch((error) => {
      throw inPm2sWords(error);
    });
    if (!callback) return result;
    const give = (...values) => process.nextTick(callback, ...values);
    result.then((value) => give(null, ...(Array.isArray(value?.[MANY]) ? value[MANY] : [value])), (error) => give(error));
    return undefined;
  };
}

/** Several values for the callback. */
const MANY = Symbol('many');

function inPm2sWords(error) {
  if (error.code === 'UNKNOWN_TARGET') return new RpmError(NOT_FOUND, { ...error, code: error.code, cause: error });
  if (/^script not found/.test(error.message)) error.message = `S${error.message.slice(1)}`;
  return error;
}

const isObject = (value) => typeof value === 'object' && value !== null;
const wants = (options, ...keys) => keys.some((key) => options?.[key]);

class Pm2 {
  /** `pm2_home`: the daemon's directory; `independent`: one of its own; `cwd`; `daemon_mode: false`: apps end with this process. */
  constructor({ pm2_home: home, cwd = process.cwd(), daemon_mode: daemonMode = true, independent = false, client } = {}) {
    this.independent = Boolean(independent) && !home;
    const own = this.independent ? fs.mkdtempSync(path.join(os.tmpdir(), 'rpmx-')) : home;
    this.client = client ?? new Client({ home: own, cwd });
    this.cwd = cwd;
    this.pm2_home = this.client.home;
    this.daemon_mode = daemonMode;
    const socket = path.join(this.pm2_home, 'rpm.sock');
    this.Client = { daemon_mode: daemonMode, pm2_home: this.pm2_home, rpc_socket_file: socket, pub_socket_file: socket };
    this.feeds = new Set();
    // They are passed on without their object: promisify(pm2.list).
    for (const name of Object.keys(METHODS)) this[name] = either(METHODS[name]).bind(this);
    this.custom = Pm2;
  }

  /** The list in PM2's shape. */
  async jlist() {
    return JSON.parse(await this.client.connection.run(['jlist']));
  }

  async entries(known) {
    const ids = new Set(known.map(({ id }) => id));
    return (await this.jlist()).filter(({ pm_id: id }) => ids.has(id));
  }

  /** Changes what is in the list by a command, and resolves to the entries that it has changed. */
  async changing(change) {
    const before = new Map((await this.jlist()).map((entry) => [entry.pm_id, entry]));
    await change();
    const now = await this.jlist();
    const gone = new Map(before);
    for (const { pm_id: id } of now) gone.delete(id);
    const state = ({ pid, pm2_env: env } = {}) => [pid, env?.status, env?.pm_uptime, env?.restart_time, env?.created_at].join();
    const different = now.filter((entry) => state(entry) !== state(before.get(entry.pm_id)));
    return [...different, ...gone.values()].map(flat);
  }

  /** `start`, `stop` and the like of a file or of a configuration. */
  configured(command, what, options = {}) {
    const flags = [];
    const given = isObject(options) ? options : { env: options };
    if (given.only) flags.push('--only', list(given.only).join(','));
    if (typeof given.env === 'string') flags.push('--env', given.env);
    if (isFile(what)) return this.client.connection.run([command, what, ...flags], { cwd: this.cwd });
    const input = JSON.stringify(what);
    return this.client.connection.run([command, '-', ...flags], { cwd: this.cwd, input });
  }

  /** `stop`, `restart`, `reload` and `delete` of a target, a file or a configuration. */
  async act(command, target, options, act) {
    if (isFile(target)) return this.changing(() => this.configured(command, target, options));
    if (isObject(target) && !Array.isArray(target)) {
      const { apps = [] } = configuration(target);
      const byName = apps.every(({ name, script }) => name && (!script || command === 'stop' || command === 'delete'));
      if (!byName) return this.changing(() => this.configured(command, { apps }, options));
      return this.act(command, apps.map(({ name }) => name), options, act);
    }
    const { known, targets } = await this.target(target);
    const before = await this.entries(known);
    await act(targets, options ?? {});
    const after = new Map((await this.entries(known)).map((entry) => [entry.pm_id, entry]));
    return before.map((entry) => flat(after.get(entry.pm_id) ?? entry));
  }

  /** The processes that a target names, by the path of their script too, and what the daemon calls them. */
  async target(target) {
    try {
      return { known: await this.client.resolve(target), targets: target };
    } catch (error) {
      const script = error.code === 'UNKNOWN_TARGET' ? path.resolve(this.cwd, String(target)) : undefined;
      const known = script ? (await this.client.known()).filter((process) => process.script === script) : [];
      if (known.length === 0) throw error;
      return { known, targets: known.map(({ id }) => id) };
    }
  }

  /** The apps end when this process does, for it has started the daemon. */
  endWithProcess() {
    const { home } = this.client;
    const program = this.client.connection.program ?? binary();
    const end = () => spawnSync(program, ['kill'], { env: { ...process.env, RPM_HOME: home }, stdio: 'ignore' });
    process.once('exit', end);
    for (const signal of ['SIGINT', 'SIGTERM']) {
      process.once(signal, () => process.listenerCount(signal) === 0 && process.exit(128 + os.constants.signals[signal]));
    }
  }

  closeAll() {
    for (const feed of this.feeds) feed.close();
    this.feeds.clear();
    this.client.close();
  }
}

/** What `stop`, `restart` and the like give of a process. */
function flat(entry) {
  const { name, namespace, status, restart_time: restarts } = entry.pm2_env;
  return { ...entry, name, namespace, status, restart_time: restarts };
}

function withProcess(entry) {
  return { ...entry, process: { pid: entry.pid } };
}

/** What variables a restart adds, if it adds any. */
function environment(options) {
  const env = isObject(options.env) ? options.env : {};
  const all = { ...(wants(options, 'updateEnv', 'update_env') ? process.env : {}), ...env };
  return Object.fromEntries(Object.entries(all).map(([key, value]) => [key, isObject(value) ? JSON.stringify(value) : String(value)]));
}

const success = { success: true };

/** What PM2 calls the actions on what a file lists: `restartProcessId` and the like. */
const ACTION = /^(start|stop|restart|reload|softReload|delete)(?:Process(?:Id|Name)?)?$/;

/** The command of an action on what a file lists. */
function command(action, commands) {
  const [, name] = ACTION.exec(String(action)) ?? [];
  const found = commands[name];
  if (!found) throw new RpmError(`unknown action ${JSON.stringify(action)}`, { code: 'BAD_REQUEST' });
  return found;
}

const METHODS = {
  async connect(noDaemon) {
    const fresh = !(await this.client.isRunning());
    await this.client.ping();
    const daemonMode = noDaemon === true ? false : this.daemon_mode;
    if (!daemonMode && fresh) this.endWithProcess();
    return { ...this.Client, daemon_mode: daemonMode, new_pm2_instance: fresh };
  },

  async disconnect() {
    this.closeAll();
    return success;
  },

  async close() {
    this.closeAll();
    return success;
  },

  async killDaemon() {
    await this.client.kill();
    this.closeAll();
    return success;
  },

  async kill() {
    return METHODS.killDaemon.call(this);
  },

  /** Ends the daemon; the directory goes only if it was made for `independent`. */
  async destroy() {
    await METHODS.killDaemon.call(this);
    if (this.independent) fs.rmSync(this.pm2_home, { recursive: true, force: true });
    return success;
  },

  async start(what, options) {
    if (typeof what !== 'string' || isFile(what)) {
      const given = isObject(what) ? configuration(what, isObject(options) ? options : {}) : what;
      return (await this.changing(() => this.configured('start', given, options))).map(withProcess);
    }
    const given = isObject(options) ? options : {};
    const script = path.resolve(this.cwd, given.cwd ?? '.', what);
    const processes = await this.jlist();
    if (!fs.existsSync(script) && processes.some(({ name, pm_id: id }) => name === what || String(id) === what)) {
      return (await METHODS.restart.call(this, what, given)).map(withProcess);
    }
    const name = given.name ?? path.basename(what).replace(/(?<=.)\.[^.]*$/, '');
    const runs = ({ pm2_env: env }) => env.pm_exec_path === script && env.name === name && env.status === 'online';
    if (!given.force && processes.some(runs)) {
      throw new RpmError('Script already launched, add force: true to start it once more', { code: 'ALREADY_LAUNCHED' });
    }
    return (await this.changing(() => this.configured('start', configuration(what, given)))).map(withProcess);
  },

  async stop(target, options) {
    return this.act('stop', target, options, (targets) => this.client.stop(targets));
  },

  async delete(target, options) {
    return this.act('delete', target, options, (targets) => this.client.delete(targets));
  },

  async restart(target, options) {
    return this.act('restart', target, options, (targets, given) => this.client.restart(targets, { env: environment(given) }));
  },

  async reload(target, options) {
    return this.act('reload', target, options, (targets, given) => this.client.reload(targets, { env: environment(given) }));
  },

  async gracefulReload(target, options) {
    return METHODS.reload.call(this, target, options);
  },

  async list() {
    return this.jlist();
  },

  async describe(target) {
    try {
      return await this.entries((await this.target(target)).known);
    } catch (error) {
      if (error.code === 'UNKNOWN_TARGET') return [];
      throw error;
    }
  },

  async scale(name, count) {
    const has = (await this.client.known()).filter((process) => process.name === String(name)).length;
    if (has > 0 && Number(count) === has && !/^[+-]/.test(String(count))) throw new RpmError('Nothing to do', { code: 'NOTHING_TO_DO' });
    await this.client.scale(name, count);
    return success;
  },

  async getProcessIdByName(name) {
    return (await this.client.known()).filter((process) => process.name === name).map(({ id }) => id);
  },

  async getPID(name) {
    const processes = await this.client.list();
    return processes.filter((process) => name === undefined || process.name === name).map(({ pid }) => pid ?? 0);
  },

  async getVersion() {
    return (await this.client.ping()).version;
  },

  async ping() {
    return { msg: (await this.client.ping()).msg };
  },

  async reset(target) {
    await this.client.reset(target);
    return success;
  },

  async flush(target) {
    const none = target === undefined || target === 'all';
    await this.client.flush(none ? [] : target);
    return none ? this.jlist() : this.entries((await this.target(target)).known);
  },

  async reloadLogs() {
    await this.client.reopenLogs();
    return {};
  },

  async dump() {
    await this.client.connection.run(['save', '--force']);
    return success;
  },

  async resurrect() {
    if (!['dump.json', 'dump.json.bak'].some((name) => fs.existsSync(path.join(this.pm2_home, name)))) return false;
    await this.client.connection.run(['resurrect']);
    return success;
  },

  async clearDump() {
    await this.client.connection.run(['cleardump']);
    return success;
  },

  async sendDataToProcessId(id, packet) {
    const whole = isObject(id) ? id : { ...packet, id };
    for (const key of ['id', 'data', 'topic']) {
      if (whole[key] === undefined) throw new RpmError(`the packet has no ${key}`, { code: 'BAD_REQUEST' });
    }
    await this.client.message(whole.id, { type: 'process:msg', ...whole });
    return { ...success, data: whole };
  },

  async sendSignalToProcessName(signal, name) {
    return METHODS.sendSignalToProcessId.call(this, signal, name);
  },

  async sendSignalToProcessId(signal, id) {
    const { known, targets } = await this.target(id);
    await this.client.signal(targets, signal);
    return this.entries(known);
  },

  async sendLineToStdin(id, line, separator = '\n') {
    await this.client.send(id, `${line}${separator}`);
    return success;
  },

  /** Connects the standard input of this process with that of an app, and prints what the app prints, until the input ends. */
  async attach(id, separator) {
    await this.client.connection.run(['attach', String(id), ...(separator === undefined ? [] : [separator])], { inherit: true });
    return success;
  },

  /** The variables that an app was started with. */
  async env(id) {
    const [process] = (await this.target(id)).known;
    const [entry] = await this.entries([process]);
    return entry.pm2_env.env;
  },

  /** Starts what a file or a configuration lists, and restarts (or reloads) what of it runs. */
  async _startJson(what, options, action = 'restart') {
    const verb = command(action, { start: 'start', restart: 'startOrRestart', reload: 'startOrReload', softReload: 'startOrReload' });
    return (await this.changing(() => this.configured(verb, what, options))).map(withProcess);
  },

  async actionFromJson(action, what, options) {
    const verb = command(action, { stop: 'stop', restart: 'restart', reload: 'reload', softReload: 'reload', delete: 'delete' });
    return METHODS[verb].call(this, what, options);
  },

  async trigger(target, action, params) {
    const answers = await this.client.trigger(target, action, params);
    if (answers.length === 0) throw new RpmError(`no process has answered the action ${JSON.stringify(action)}`, { code: 'NO_ANSWER' });
    const at = Date.now();
    return answers.map(({ id, name, namespace, answer }) => ({
      at,
      data: { at, action_name: action, return: answer },
      process: { pm_id: id, name, namespace, rev: null },
    }));
  },

  async set(key, value) {
    await this.client.connection.run(['set', String(key), String(value)]);
    return success;
  },

  async get(key) {
    return (await this.client.connection.run(['get', ...(key === undefined ? [] : [key])])).trimEnd();
  },

  async multiset(values) {
    await this.client.connection.run(['multiset', values]);
    return success;
  },

  async unset(key) {
    await this.client.connection.run(['unset', key]);
    return success;
  },

  async launchBus() {
    const feed = new Feed(this.client, () => this.jlist());
    this.feeds.add(feed);
    await feed.open();
    const close = () => this.feeds.delete(feed) && feed.close();
    return { [MANY]: [feed.bus, { close }], bus: feed.bus, close };
  },

  async disconnectBus() {
    for (const feed of this.feeds) feed.close();
    this.feeds.clear();
    return success;
  },

  async serve(directory, port, { spa, name } = {}) {
    const flags = [...(spa ? ['--spa'] : []), ...(name ? ['--name', name] : [])];
    return this.changing(() => this.client.connection.run(['serve', path.resolve(this.cwd, directory ?? '.'), String(port ?? 8080), ...flags]));
  },

  /** As root. Otherwise the error's `hint` is the line for root to type. */
  async startup(platform) {
    return this.client.connection.run(['startup', ...(typeof platform === 'string' ? [platform] : [])], { printsHint: true });
  },

  async update() {
    await this.client.connection.run(['update']);
    return success;
  },
};

module.exports = { Pm2, METHODS, split };
