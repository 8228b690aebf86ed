// Listens only in a worker thread, sends that a request, and then connects as the marker.
const { Worker, isMainThread, parentPort } = require('node:worker_threads');
const http = require('node:http');
if (isMainThread) {
  // It is a file because Node runs no preload in a thread made from a string.
  const thread = new Worker(__filename);
  thread.on('message', (port) => {
    http.get({ port, host: '127.0.0.1', agent: false }, (res) => {
      res.resume().on('end', () => thread.terminate().then(() => require('./marker')(() => console.log('done'))));
    });
  });
} else {
  const server = http.createServer((req, res) => res.end('ok'));
  server.listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port));
}
