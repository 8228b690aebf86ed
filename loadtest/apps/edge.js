// What proxies are compared before: answers of the length that the path names, and the number of the worker.
const { PORT, NODE_APP_INSTANCE } = process.env;
const bodies = new Map();
const bodyOf = (length) => {
  if (!bodies.has(length)) bodies.set(length, Buffer.alloc(length, `${NODE_APP_INSTANCE ?? 0} ${process.pid}\n`));
  return bodies.get(length);
};
const server = require('node:http').createServer((req, res) => {
  const body = bodyOf(Number(req.url.slice(1)) || 16);
  res.writeHead(200, { 'content-type': 'text/plain', 'content-length': body.length }).end(body);
});
server.keepAliveTimeout = 65_000;
server.listen({ port: Number(PORT), host: '127.0.0.1' });
