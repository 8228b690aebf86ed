import pm2 = require('./pm2');

/** The control API with promises. A call with a callback at the end is PM2's, as are the calls that PM2 alone has. */
declare namespace rpm {
  type ProcessStatus = pm2.ProcessStatus;
  type Monit = pm2.Monit;
  type Pm2Env = pm2.Pm2Env;
  type ProcessDescription = pm2.ProcessDescription;
  type Proc = pm2.Proc;
  type StartOptions = pm2.StartOptions;
  type Packet = pm2.Packet;
  type Bus = pm2.Bus;

  type Targets = string | number | (string | number)[];

  /** An instance of an app: a place in the list. */
  interface Process {
    id: number;
    name: string;
    namespace: string;
    instance: number;
    generation: number;
    exec_mode: 'cluster' | 'fork';
    plane: string;
    status: 'launching' | 'online' | 'stopping' | 'stopped' | 'waiting restart' | 'errored';
    pid: number | null;
    uptime_ms: number | null;
    started_at_ms: number;
    created_at_ms: number;
    restarts: number;
    unstable_restarts: number;
    watching: boolean;
    cpu_percent: number;
    memory_bytes: number;
    connections: number | null;
    serves?: { address: string; url?: string }[];
    exit_code: number | null;
    out_log: string;
    err_log: string;
    /** With `{spec: true}`. */
    spec?: App;
    details?: { [key: string]: any };
    [key: string]: any;
  }

  /** An app as the control API has it (docs/API.md). */
  interface App {
    name: string;
    script: string;
    cwd: string;
    exec_mode: 'cluster' | 'fork';
    instances: number;
    [key: string]: any;
  }

  interface AppInfo {
    spec: App;
    plane: string;
    plane_reason: string;
    generation: number;
    processes: Process[];
    listeners: { address: string; steering: string; reason: string; slots: { [key: string]: any }[] }[];
  }

  interface Change {
    /** Those concerned, as they are now. */
    processes: Process[];
    notes: string[];
  }

  interface Known {
    id: number;
    name: string;
    namespace: string;
    script: string;
    status: Process['status'];
    actions?: string[];
  }

  interface Step {
    app: string;
    id: number;
    pid?: number;
    to: 'starting' | 'ready' | 'draining' | 'stopping' | 'gone' | 'failed';
  }

  interface LogLine {
    id: number;
    name: string;
    stream: 'out' | 'err';
    line: string;
    shared?: boolean;
    time_ms?: number;
    to?: 'out' | 'err';
  }

  /** What a program has passed to `process.send`; `lost`: so many were dropped, for they were not read. */
  interface Message {
    at_ms: number;
    id: number;
    name: string;
    namespace: string;
    message: any;
    lost?: number;
  }

  /** What has happened (docs/EVENTS.md has the kinds and their fields); without `app` it is about the daemon. */
  interface Event {
    seq: number;
    at_ms: number;
    kind:
      | 'started' | 'ready' | 'crashed' | 'errored' | 'exited' | 'frozen' | 'recovered' | 'rescued' | 'reload_begun' | 'candidate_ready'
      | 'reload_done' | 'reload_undone' | 'draining' | 'stopped' | 'deleted' | 'memory_limit' | 'scaled' | 'unhealthy' | 'healthy' | 'watch'
      | 'cron' | 'daemon_started' | 'daemon_taken_over' | 'daemon_updated' | 'daemon_stopped' | 'events_lost';
    app?: string;
    namespace?: string;
    id?: number;
    worker?: number;
    pid?: number;
    generation?: number;
    /** In the place of an event, with nothing else: so many are not kept any more. */
    lost?: number;
    [field: string]: any;
  }

  interface Wait {
    /** Resolve when it is done (the default), or when it has begun. */
    wait?: boolean;
  }

  interface Rollout extends Wait {
    /** Resolve when the workers that were replaced are gone too. */
    drained?: boolean;
    onStep?: (step: Step) => void;
  }

  interface Following {
    /** Ends it. */
    signal?: { readonly aborted: boolean; addEventListener(type: 'abort', listener: () => void): void };
    onOpen?: () => void;
  }

  interface Pong {
    msg: string;
    version: string;
    pid: number;
    started_at_ms: number;
  }

  type Start = StartOptions | StartOptions[] | { apps: StartOptions[] };

  /** The control API; every call starts the daemon if none runs. */
  interface Client {
    readonly home: string;
    ping(): Promise<Pong>;
    isRunning(): Promise<boolean>;
    list(targets?: Targets, options?: { spec?: boolean }): Promise<Process[]>;
    describe(target: string | number): Promise<AppInfo>;
    known(): Promise<Known[]>;
    resolve(targets: Targets): Promise<Known[]>;
    start(script: string, options?: Omit<StartOptions, 'env'> & { env?: string | { [name: string]: any }; only?: string | string[] } & Wait): Promise<Process[]>;
    start(apps: Start, options?: Wait & { cwd?: string }): Promise<Process[]>;
    stop(targets: Targets, options?: Wait & { hard?: boolean }): Promise<Change>;
    delete(targets: Targets, options?: Wait & { hard?: boolean }): Promise<Change>;
    restart(targets: Targets, options?: Rollout & { hard?: boolean; env?: { [name: string]: string } }): Promise<Change>;
    reload(targets: Targets, options?: Rollout & { env?: { [name: string]: string } }): Promise<Change>;
    rollback(target: string | number, options?: Rollout): Promise<Change>;
    scale(target: string | number, count: number | string, options?: Wait): Promise<Change>;
    reset(targets: Targets): Promise<Change>;
    signal(targets: Targets, signal: string | number): Promise<Change>;
    /** Without targets all log files; resolves to their names. */
    flush(targets?: Targets): Promise<string[]>;
    reopenLogs(): Promise<Change>;
    send(target: string | number, line: string): Promise<Change>;
    message(target: string | number, message: any): Promise<Change>;
    trigger(target: string | number, action: string, params?: any): Promise<{ id: number; name: string; namespace: string; answer: any }[]>;
    logs(targets?: Targets, options?: Following & { lines?: number; follow?: boolean }): AsyncIterableIterator<LogLine>;
    events(targets?: Targets, options?: Following & { lines?: number; after?: number; since?: number | Date; follow?: boolean }): AsyncIterableIterator<Event>;
    messages(options?: Following): AsyncIterableIterator<Message>;
    metrics(): Promise<string>;
    doctor(): Promise<{ mechanism: string; works: boolean; detail: string; advice?: string }[]>;
    apps(): Promise<{ app: App; stopped: boolean; stopped_instances?: number[] }[]>;
    plan(apps: App[]): Promise<{ name: string; change: 'added' | 'changed' | 'unchanged'; keys: { key: string; from?: string; to?: string }[] }[]>;
    apply(apps: App[], options?: Rollout & { mode?: 'reload' | 'restart' | 'changed' | 'absent'; [key: string]: any }): Promise<Change>;
    kill(): Promise<void>;
    close(): void;
  }

  interface Options {
    /** The daemon's directory, instead of RPM_HOME. */
    home?: string;
    /** The native program, instead of the one that was installed. */
    binary?: string;
    /** Where relative paths begin. */
    cwd?: string;
    /** Variables besides those of this process. */
    env?: { [name: string]: string };
  }

  type Code =
    | 'UNKNOWN_TARGET' | 'FAILED' | 'BAD_REQUEST' | 'NOT_FOUND' | 'TOO_LARGE' | 'SHUTTING_DOWN' | 'COMMAND_FAILED' | 'NO_DAEMON'
    | 'DISCONNECTED' | 'UNSAFE_HOME' | 'NO_BINARY' | 'UNSUPPORTED_SYSTEM' | 'ALREADY_LAUNCHED' | 'NOTHING_TO_DO' | 'NO_ANSWER';

  interface RpmError extends Error {
    code: Code;
    status?: number;
    hint?: string;
    lastLines: string[];
    unknown?: { target: string; known: string[] };
  }

  interface Classes {
    readonly Rpm: new (options?: Options) => Client;
    readonly RpmError: new (message: string, fields?: object) => RpmError;
  }

  type Both = Client & Classes & pm2.Instance;
}

declare const rpm: rpm.Both;
export = rpm;
