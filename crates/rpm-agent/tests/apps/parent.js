// Forks itself. The child listens and sends its pid to the parent, which tells it to exit and prints what it received.
const { fork } = require('node:child_process');
if (process.argv[2] === 'child') {
  const server = require('node:http').createServer().listen(0, '127.0.0.1', () => process.send(process.pid));
  process.once('message', () => server.close());
} else {
  const child = fork(__filename, ['child']);
  const sent = [];
  child.on('message', (message) => {
    sent.push(message);
    child.send('go');
  });
  child.on('exit', (code) => console.log(JSON.stringify({ sent, pid: child.pid, code })));
}
