// marker(done): connects to the agents' socket itself. Connections that were made before it are accepted before it.
module.exports = (done) => {
  const socket = require('node:net').connect(process.env.RPM_AGENT_SOCKET, () => {
    socket.end('{"hello":{"token":"marker","pid":0}}\n', done);
  });
};
