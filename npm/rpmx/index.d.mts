import rpm = require('./index.js');

export default rpm;
export type {
  App, AppInfo, Bus, Change, Client, Code, Following, Known, LogLine, Message, Monit, Options, Packet, Pm2Env, Pong, Proc, Process,
  ProcessDescription, ProcessStatus, Rollout, StartOptions, Step, Targets, Wait,
} from './index.js';
export declare const apply: typeof rpm.apply, apps: typeof rpm.apps, clearDump: typeof rpm.clearDump, close: typeof rpm.close,
  connect: typeof rpm.connect, custom: typeof rpm.custom, remove: typeof rpm.delete, describe: typeof rpm.describe,
  disconnect: typeof rpm.disconnect, doctor: typeof rpm.doctor, dump: typeof rpm.dump, flush: typeof rpm.flush, getPID: typeof rpm.getPID,
  getProcessIdByName: typeof rpm.getProcessIdByName, getVersion: typeof rpm.getVersion, isRunning: typeof rpm.isRunning,
  kill: typeof rpm.kill, killDaemon: typeof rpm.killDaemon, known: typeof rpm.known, launchBus: typeof rpm.launchBus,
  list: typeof rpm.list, logs: typeof rpm.logs, message: typeof rpm.message, messages: typeof rpm.messages, metrics: typeof rpm.metrics,
  ping: typeof rpm.ping, plan: typeof rpm.plan, reload: typeof rpm.reload, reloadLogs: typeof rpm.reloadLogs,
  reopenLogs: typeof rpm.reopenLogs, reset: typeof rpm.reset, resolve: typeof rpm.resolve, restart: typeof rpm.restart,
  resurrect: typeof rpm.resurrect, rollback: typeof rpm.rollback, scale: typeof rpm.scale, send: typeof rpm.send,
  sendDataToProcessId: typeof rpm.sendDataToProcessId, sendLineToStdin: typeof rpm.sendLineToStdin,
  sendSignalToProcessId: typeof rpm.sendSignalToProcessId, sendSignalToProcessName: typeof rpm.sendSignalToProcessName,
  signal: typeof rpm.signal, start: typeof rpm.start, stop: typeof rpm.stop, trigger: typeof rpm.trigger, Rpm: typeof rpm.Rpm,
  RpmError: typeof rpm.RpmError;
