// Listens, waits for a line on its input, and closes its server. Then nothing of its own keeps it alive.
const server = require('node:http').createServer().listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.once('data', () => {
  process.stdin.destroy();
  server.close();
});
