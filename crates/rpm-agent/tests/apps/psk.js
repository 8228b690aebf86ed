// TLS without certificates: both sides know the key (RFC 4279).
const psk = Buffer.alloc(32, 7);
module.exports = {
  ciphers: 'PSK',
  maxVersion: 'TLSv1.2',
  pskIdentityHint: 'test',
  // The server's callback gets its socket, the client's gets the server's hint.
  pskCallback: (asked) => (typeof asked === 'object' && asked ? psk : { psk, identity: 'test' }),
  servername: 'localhost',
  checkServerIdentity: () => undefined,
};
