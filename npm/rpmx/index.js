// `require('rpmx')`: the control API with promises; a call with a callback at the end is PM2's, as are the calls that PM2 alone has.
'use strict';
const { Client } = require('./lib/client');
const { Pm2, METHODS } = require('./lib/pm2');
const { RpmError } = require('./lib/error');

const client = new Client();
const rpm = new Pm2({ client });

for (const name of Object.getOwnPropertyNames(Client.prototype)) {
  if (['constructor', 'change', 'home'].includes(name)) continue;
  const pm2s = METHODS[name] && rpm[name];
  const own = client[name].bind(client);
  rpm[name] = pm2s ? (...args) => (args.some((arg) => typeof arg === 'function') ? pm2s(...args) : own(...args)) : own;
}
rpm.home = client.home;
rpm.Rpm = Client;
rpm.RpmError = RpmError;

module.exports = rpm;
