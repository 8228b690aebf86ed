/** PM2's programmatic calls. Each takes a callback as its last argument, or returns a promise. */
declare namespace pm2 {
  type ErrorOrNull = Error | null;
  type Callback<T = any> = (error: Error, result: T) => void;

  type ProcessStatus = 'online' | 'stopping' | 'stopped' | 'launching' | 'errored' | 'waiting restart' | 'one-launch-status';

  interface Monit {
    /** Bytes. */
    memory?: number;
    /** Percent of one CPU. */
    cpu?: number;
  }

  /** What PM2 calls the environment of a process; its variables stand beside these. */
  interface Pm2Env {
    name?: string;
    namespace?: string;
    pm_id?: number;
    status?: ProcessStatus;
    exec_mode?: 'cluster_mode' | 'fork_mode';
    instances?: number;
    /** When it was started, milliseconds since 1970. */
    pm_uptime?: number;
    created_at?: number;
    restart_time?: number;
    unstable_restarts?: number;
    prev_restart_delay?: number;
    exit_code?: number;
    pm_cwd?: string;
    pm_exec_path?: string;
    pm_out_log_path?: string;
    pm_err_log_path?: string;
    pm_pid_path?: string;
    exec_interpreter?: string;
    args?: string[];
    node_args?: string[];
    env?: { [name: string]: string };
    username?: string;
    unique_id?: string;
    autorestart?: boolean;
    watch?: boolean | string[];
    version?: string;
    node_version?: string;
    axm_actions?: { action_name: string; [key: string]: any }[];
    axm_monitor?: { [name: string]: { value: any; [key: string]: any } };
    axm_options?: { [name: string]: any };
    NODE_APP_INSTANCE?: number;
    [name: string]: any;
  }

  interface ProcessDescription {
    name?: string;
    pid?: number;
    pm_id?: number;
    monit?: Monit;
    pm2_env?: Pm2Env;
  }

  /** What `start`, `stop` and the like give. */
  interface Proc extends ProcessDescription {
    namespace?: string;
    status?: ProcessStatus;
    restart_time?: number;
    process?: { pid?: number };
    [key: string]: any;
  }

  /** The keys of the ecosystem file. */
  interface StartOptions {
    name?: string;
    script?: string;
    args?: string | string[];
    cwd?: string;
    namespace?: string;
    interpreter?: string;
    interpreter_args?: string | string[];
    node_args?: string | string[];
    instances?: number | 'max';
    exec_mode?: 'cluster' | 'fork' | 'cluster_mode' | 'fork_mode';
    env?: { [name: string]: any };
    output?: string;
    out_file?: string;
    error?: string;
    error_file?: string;
    log_file?: string;
    log_date_format?: string;
    log_type?: 'json' | string;
    merge_logs?: boolean;
    pid?: string;
    pid_file?: string;
    force?: boolean;
    autorestart?: boolean;
    autostart?: boolean;
    watch?: boolean | string | string[];
    ignore_watch?: string | string[];
    max_restarts?: number;
    min_uptime?: number | string;
    restart_delay?: number;
    exp_backoff_restart_delay?: number;
    max_memory_restart?: number | string;
    cron_restart?: string;
    kill_timeout?: number;
    listen_timeout?: number;
    wait_ready?: boolean;
    shutdown_with_message?: boolean;
    source_map_support?: boolean;
    treekill?: boolean;
    stop_exit_codes?: number[];
    uid?: number | string;
    gid?: number | string;
    user?: string;
    updateEnv?: boolean;
    [key: string]: any;
  }

  interface ActOptions {
    updateEnv?: boolean;
    env?: { [name: string]: any } | string;
    only?: string | string[];
    [key: string]: any;
  }

  type Target = string | number;
  type Apps = StartOptions | StartOptions[] | { apps: StartOptions[] };

  interface Packet {
    id?: number;
    type?: string;
    topic: string | boolean;
    data: any;
    [key: string]: any;
  }

  interface Connected {
    daemon_mode: boolean;
    new_pm2_instance: boolean;
    rpc_socket_file: string;
    pub_socket_file: string;
    pm2_home: string;
  }

  interface Success {
    success: boolean;
  }

  interface Answer {
    at: number;
    data: { at: number; action_name: string; return: any };
    process: { pm_id: number; name: string; namespace: string; rev: string | null };
  }

  interface Bus {
    on(event: string, listener: (...args: any[]) => void): this;
    once(event: string, listener: (...args: any[]) => void): this;
    /** Without a function all of the event are removed. */
    off(event: string, listener?: (...args: any[]) => void): this;
  }

  interface Instance {
    readonly pm2_home: string;
    readonly cwd: string;
    readonly daemon_mode: boolean;
    readonly custom: new (options?: {
      pm2_home?: string;
      cwd?: string;
      daemon_mode?: boolean;
      independent?: boolean | string;
      [key: string]: any;
    }) => Instance;

    connect(callback: Callback<Connected>): void;
    connect(noDaemon: boolean, callback: Callback<Connected>): void;
    connect(noDaemon?: boolean): Promise<Connected>;
    disconnect(callback: Callback<Success>): void;
    disconnect(): Promise<Success>;
    killDaemon(callback: Callback<Success>): void;
    killDaemon(): Promise<Success>;

    start(what: string | Apps, callback: Callback<Proc[]>): void;
    start(what: string, options: StartOptions | string, callback: Callback<Proc[]>): void;
    start(apps: Apps, options: object, callback: Callback<Proc[]>): void;
    start(what: string | Apps, options?: StartOptions | string): Promise<Proc[]>;

    stop(target: Target | Apps, callback: Callback<Proc[]>): void;
    stop(target: Target | Apps): Promise<Proc[]>;
    delete(target: Target | Apps, callback: Callback<Proc[]>): void;
    delete(target: Target | Apps): Promise<Proc[]>;
    restart(target: Target | Apps, callback: Callback<Proc[]>): void;
    restart(target: Target | Apps, options: ActOptions, callback: Callback<Proc[]>): void;
    restart(target: Target | Apps, options?: ActOptions): Promise<Proc[]>;
    reload(target: Target | Apps, callback: Callback<Proc[]>): void;
    reload(target: Target | Apps, options: ActOptions, callback: Callback<Proc[]>): void;
    reload(target: Target | Apps, options?: ActOptions): Promise<Proc[]>;
    gracefulReload(target: Target | Apps, callback: Callback<Proc[]>): void;

    list(callback: Callback<ProcessDescription[]>): void;
    list(): Promise<ProcessDescription[]>;
    describe(target: Target, callback: Callback<ProcessDescription[]>): void;
    describe(target: Target): Promise<ProcessDescription[]>;
    scale(name: string, count: number | string, callback: Callback<Success>): void;
    scale(name: string, count: number | string): Promise<Success>;
    reset(target: Target, callback: Callback<Success>): void;
    reset(target: Target): Promise<Success>;
    flush(callback: Callback<ProcessDescription[]>): void;
    flush(target: Target, callback: Callback<ProcessDescription[]>): void;
    flush(target?: Target): Promise<ProcessDescription[]>;
    reloadLogs(callback: Callback<{}>): void;
    reloadLogs(): Promise<{}>;
    dump(callback: Callback<Success>): void;
    dump(): Promise<Success>;
    resurrect(callback: Callback<Success | false>): void;
    resurrect(): Promise<Success | false>;
    clearDump(callback: Callback<Success>): void;
    clearDump(): Promise<Success>;
    getPID(name: string, callback: Callback<number[]>): void;
    getPID(name?: string): Promise<number[]>;
    getProcessIdByName(name: string, callback: Callback<number[]>): void;
    getProcessIdByName(name: string): Promise<number[]>;
    getVersion(callback: Callback<string>): void;
    getVersion(): Promise<string>;
    ping(callback: Callback<{ msg: string }>): void;
    ping(): Promise<{ msg: string }>;

    sendDataToProcessId(id: number | string, packet: Packet, callback: Callback<Success & { data: Packet }>): void;
    sendDataToProcessId(packet: Packet, callback: Callback<Success & { data: Packet }>): void;
    sendDataToProcessId(id: number | string | Packet, packet?: Packet): Promise<Success & { data: Packet }>;
    sendSignalToProcessName(signal: string | number, name: Target, callback: Callback<ProcessDescription[]>): void;
    sendSignalToProcessName(signal: string | number, name: Target): Promise<ProcessDescription[]>;
    sendSignalToProcessId(signal: string | number, id: Target, callback: Callback<ProcessDescription[]>): void;
    sendSignalToProcessId(signal: string | number, id: Target): Promise<ProcessDescription[]>;
    sendLineToStdin(id: Target, line: string, callback: Callback<Success>): void;
    sendLineToStdin(id: Target, line: string, separator: string, callback: Callback<Success>): void;
    sendLineToStdin(id: Target, line: string, separator?: string): Promise<Success>;
    attach(id: Target, callback: Callback<Success>): void;
    attach(id: Target, separator: string, callback: Callback<Success>): void;
    attach(id: Target, separator?: string): Promise<Success>;
    env(id: Target, callback: Callback<Record<string, string>>): void;
    env(id: Target): Promise<Record<string, string>>;
    trigger(target: Target, action: string, callback: Callback<Answer[]>): void;
    trigger(target: Target, action: string, params: any, callback: Callback<Answer[]>): void;
    trigger(target: Target, action: string, params?: any): Promise<Answer[]>;
    launchBus(callback: (error: Error, bus: Bus, socket: { close(): void }) => void): void;

    set(key: string, value: any, callback: Callback<Success>): void;
    get(key: string, callback: Callback<string>): void;
    multiset(values: string, callback: Callback<Success>): void;
    unset(key: string, callback: Callback<Success>): void;
    serve(directory: string, port: number, options: { spa?: boolean; name?: string }, callback: Callback<Proc[]>): void;
    /** Without root it fails, and `hint` of the error is the line for root to type. */
    startup(platform: string, callback: Callback<string>): void;
    update(callback: Callback<Success>): void;
  }
}

declare const pm2: pm2.Instance;
export = pm2;
