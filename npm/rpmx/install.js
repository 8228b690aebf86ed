// After the installation: the native program takes the place of bin/rpmx, so that no Node is started to start it. Nothing is downloaded,
// and where this does not run or fails bin/rpmx does its work.
'use strict';
const fs = require('node:fs');
const path = require('node:path');
const { binary } = require('./lib/binary');

/** pnpm and Yarn make a script that calls Node with bin/rpmx, which then has to be JavaScript. */
function makesScripts() {
  return /^(pnpm|yarn|bun)\//.test(process.env.npm_config_user_agent ?? '');
}

function replace(program) {
  const shim = path.join(__dirname, 'bin', 'rpmx');
  const fresh = `${shim}.new`;
  fs.rmSync(fresh, { force: true });
  try {
    // A file of the user's own is copied: a link would share its mode, and what is written into it later.
    if (process.env.RPMX_BINARY) throw new Error('not ours');
    fs.linkSync(program, fresh);
  } catch {
    fs.copyFileSync(program, fresh);
  }
  fs.chmodSync(fresh, 0o755);
  fs.renameSync(fresh, shim);
}

try {
  const program = binary();
  if (!makesScripts()) replace(program);
} catch (error) {
  // Not a failed installation: it may be part of one for several systems.
  console.error(`rpmx: ${error.message}`);
}
