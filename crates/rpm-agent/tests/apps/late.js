// Listens after its marker.
require('./marker')(() => {
  const server = require('node:net').createServer().listen(0, '127.0.0.1', () => console.log(server.address().port));
});
