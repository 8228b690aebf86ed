// `require('rpmx/pm2')`: PM2's programmatic calls.
'use strict';
const { Pm2 } = require('./lib/pm2');

module.exports = new Pm2();
