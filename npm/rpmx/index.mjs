import rpm from './index.js';

export default rpm;
export const {
  apply, apps, clearDump, close, connect, custom, delete: remove, describe, destroy, disconnect, disconnectBus, doctor, dump, events, flush,
  getPID, getProcessIdByName, getVersion, gracefulReload, isRunning, kill, killDaemon, known, launchBus, list, logs, message, messages,
  metrics, multiset, ping, plan, reload, reloadLogs, reopenLogs, reset, resolve, restart, resurrect, rollback, scale, send,
  sendDataToProcessId, sendLineToStdin, sendSignalToProcessId, sendSignalToProcessName, serve, signal, start, startup, stop, trigger,
  unset, update, get, set, Rpm, RpmError,
} = rpm;
