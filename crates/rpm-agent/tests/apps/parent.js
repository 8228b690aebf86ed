// Forks itself; the child listens and says its pid to the parent, which tells it to go and prints what it was sent.
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
