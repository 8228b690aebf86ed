'use strict';

/** What failed: `message` and `hint` are the daemon's words, `code` is for programs. */
class RpmError extends Error {
  constructor(message, { code, status, hint, lastLines = [], unknown, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'RpmError';
    this.code = code ?? 'FAILED';
    if (status !== undefined) this.status = status;
    if (hint) this.hint = hint;
    if (unknown) this.unknown = unknown;
    this.lastLines = lastLines;
  }
}

const CODES = { 400: 'BAD_REQUEST', 404: 'NOT_FOUND', 413: 'TOO_LARGE', 422: 'FAILED', 503: 'SHUTTING_DOWN' };

/** What the daemon says of a target that names nothing. */
const NO_TARGET = /^no process or app|^there is no process$/;

/** From an answer of the daemon that is no success. */
function fromAnswer(status, body) {
  const { error, hint, last_lines: lastLines, unknown } = body ?? {};
  const code = unknown || NO_TARGET.test(error) ? 'UNKNOWN_TARGET' : (CODES[status] ?? 'FAILED');
  return new RpmError(error ?? `the daemon answered with status ${status}`, { code, status, hint, lastLines, unknown });
}

/** From what a command that failed has printed to standard error. `line`: what to type instead, if it has printed that. */
function fromCommand(text, status, line = '') {
  const lines = text.split('\n').map((line) => line.trimEnd());
  const at = lines.findIndex((line) => line.startsWith('error: '));
  const rest = at < 0 ? lines : lines.slice(at);
  const hint = rest.find((line) => line.startsWith('hint: '))?.slice('hint: '.length);
  const others = rest.slice(1).filter((line) => line && !line.startsWith('hint: '));
  // What came by standard input has the name `-`.
  const said = at < 0 ? text.trim() : rest[0].slice('error: '.length).replace(/^-: (app 1: )?/, '');
  const message = said || `the command ended with ${status}`;
  const code = NO_TARGET.test(message) ? 'UNKNOWN_TARGET' : 'COMMAND_FAILED';
  return new RpmError(message, { code, hint: line || hint, lastLines: others });
}

module.exports = { RpmError, fromAnswer, fromCommand };
