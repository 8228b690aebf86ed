// Finds the native program of this system: RPMX_BINARY, or the package of the platform that npm installed beside this one.
'use strict';
const fs = require('node:fs');
const path = require('node:path');
const { RpmError } = require('./error');

/** Platforms that have a package. */
const PACKAGES = { 'linux-x64': '@rpmx/linux-x64', 'linux-arm64': '@rpmx/linux-arm64' };

/** The package with the native program for this system. */
function packageName(platform = process.platform, arch = process.arch) {
  const name = PACKAGES[`${platform}-${arch}`];
  if (name) return name;
  throw new RpmError(
    `rpmx does not support ${platform} on ${arch}; it has programs for ${Object.keys(PACKAGES).join(' and ')}. ` +
      'Build it from its sources there, and set RPMX_BINARY to the program.',
    { code: 'UNSUPPORTED_SYSTEM' },
  );
}

/** The path of the native program. */
function binary() {
  const named = process.env.RPMX_BINARY;
  if (named) {
    if (fs.existsSync(named)) return path.resolve(named);
    throw new RpmError(`RPMX_BINARY names ${named}, which does not exist`, { code: 'NO_BINARY' });
  }
  const name = packageName();
  try {
    return require.resolve(`${name}/bin/rpmx`);
  } catch {
    throw new RpmError(
      `the package ${name} is not installed, and rpmx needs its program. Package managers leave it out with --no-optional ` +
        '(--omit=optional), and when node_modules was copied from another system: install again, on this one, without that option.',
      { code: 'NO_BINARY' },
    );
  }
}

module.exports = { binary, packageName };
