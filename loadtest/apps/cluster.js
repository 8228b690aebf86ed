// node:cluster around app.js: WORKERS processes, SCHED=rr (the primary accepts) or none (a shared listener).
const cluster = require('node:cluster');
cluster.schedulingPolicy = process.env.SCHED === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR;
// Each worker has a session of its own, as those have that it is compared with.
cluster.setupPrimary({ exec: require.resolve('./app.js'), execPath: 'setsid', execArgv: [process.execPath] });
for (let n = 0; n < Number(process.env.WORKERS); n += 1) cluster.fork({ NODE_APP_INSTANCE: n });
