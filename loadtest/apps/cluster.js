// node:cluster around app.js: WORKERS processes, SCHED=rr (the primary accepts) or none (a shared listener).
const cluster = require('node:cluster');
cluster.schedulingPolicy = process.env.SCHED === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR;
cluster.setupPrimary({ exec: require.resolve('./app.js') });
for (let n = 0; n < Number(process.env.WORKERS); n += 1) cluster.fork({ NODE_APP_INSTANCE: n });
