// Listens, waits for a line on its input, closes its server; then nothing of its own keeps it.
const server = require('node:http').createServer().listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.once('data', () => {
  process.stdin.destroy();
  server.close();
});
