// marker(done): a connection to the socket of agents that is not the agent's. Whatever came before it was accepted before it.
module.exports = (done) => {
  const socket = require('node:net').connect(process.env.RPM_AGENT_SOCKET, () => {
    socket.end('{"hello":{"token":"marker","pid":0}}\n', done);
  });
};
