// After the installation: the native program takes the place of bin/rpmx, so that no Node is started to start it, and the one that it
// executes for some commands comes beside it. Nothing is downloaded, and where this does not run or fails bin/rpmx does its work.
'use strict';
const fs = require('node:fs');
const path = require('node:path');
const { binary } = require('./lib/binary');

/** pnpm and Yarn make a script that calls Node with bin/rpmx, which then has to be JavaScript. */
function makesScripts() {
  return /^(pnpm|yarn|bun)\//.test(process.env.npm_config_user_agent ?? '');
}

function place(program, name) {
  const file = path.join(__dirname, 'bin', name);
  const fresh = `${file}.new`;
  fs.rmSync(fresh, { force: true });
  try {
    // A file of the user's own is copied: a link would share its mode, and what is written into it later.
    if (process.env.RPMX_BINARY) throw new Error('not ours');
    fs.linkSync(program, fresh);
  } catch {
    fs.copyFileSync(program, fresh);
  }
  fs.chmodSync(fresh, 0o755);
  fs.renameSync(fresh, file);
}

function replace(program) {
  // First, so that whoever runs the program finds it. A program of the user's own may have none.
  const companion = path.join(path.dirname(program), 'rpm-observe');
  if (fs.existsSync(companion)) place(companion, 'rpm-observe');
  place(program, 'rpmx');
}

try {
  const program = binary();
  if (!makesScripts()) replace(program);
} catch (error) {
  // Not a failed installation: it may be part of one for several systems.
  console.error(`rpmx: ${error.message}`);
}
