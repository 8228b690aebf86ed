// What proxies are compared before: answers of the length that the path names, and the number of the worker.
const { PORT, NODE_APP_INSTANCE } = process.env;
const bodies = new Map();
const bodyOf = (length) => {
  if (!bodies.has(length)) bodies.set(length, Buffer.alloc(length, `${NODE_APP_INSTANCE ?? 0} ${process.pid}\n`));
  return bodies.get(length);
};
const stream = (res, length) => {
  res.writeHead(200, { 'content-length': length });
  const part = bodyOf(65536);
  const more = () => {
    while (length > 0) {
      const now = length < part.length ? part.subarray(0, length) : part;
      length -= now.length;
      if (!res.write(now)) return res.once('drain', more);
    }
    res.end();
  };
  more();
};
const server = require('node:http').createServer((req, res) => {
  if (req.url.startsWith('/stream/')) return stream(res, Number(req.url.slice(8)));
  const body = bodyOf(Number(req.url.slice(1)) || 16);
  res.writeHead(200, { 'content-type': 'text/plain', 'content-length': body.length }).end(body);
});
server.keepAliveTimeout = 65_000;
server.listen({ port: Number(PORT), host: '127.0.0.1' });
