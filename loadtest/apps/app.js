// The app under comparison: a small answer. REUSE_PORT=1: each process opens the port for itself.
const { PORT, REUSE_PORT, NODE_APP_INSTANCE } = process.env;
const body = `${NODE_APP_INSTANCE ?? 0} ${process.pid}\n`;
const headers = { 'content-type': 'text/plain', 'content-length': body.length };
const server = require('node:http').createServer((req, res) => res.writeHead(200, headers).end(body));
server.listen({ port: Number(PORT), host: '127.0.0.1', reusePort: REUSE_PORT === '1' });
