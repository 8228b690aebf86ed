// node:cluster around app.js, and a plain rolling restart: on SIGUSR2 one worker after the other is replaced by a new one
// that listens, disconnected, and ended if it has not gone after GRACE_MS. Prints "rolled" when all are.
const cluster = require('node:cluster');
const GRACE_MS = Number(process.env.GRACE_MS ?? 5000);
cluster.setupPrimary({ exec: require.resolve('./app.js') });
const fork = (instance) => Object.assign(cluster.fork({ NODE_APP_INSTANCE: instance }), { instance });

function replace(old) {
  return new Promise((done) => {
    fork(old.instance).once('listening', () => {
      const timer = setTimeout(() => old.process.kill('SIGKILL'), GRACE_MS);
      old.once('exit', () => {
        clearTimeout(timer);
        done();
      });
      old.disconnect();
    });
  });
}

process.on('SIGUSR2', async () => {
  for (const worker of Object.values(cluster.workers)) await replace(worker);
  console.log('rolled');
});
for (let n = 0; n < Number(process.env.WORKERS); n += 1) fork(n);
