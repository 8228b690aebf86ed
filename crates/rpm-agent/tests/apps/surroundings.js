// Listens, waits for a line on its input, and prints what a preload could disturb.
const server = require('node:http').createServer().listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.once('data', () => {
  console.log(JSON.stringify({
    main: require.main === module,
    own: globalThis.ownPreload === true,
    argv: process.argv.length,
    execArgv: process.execArgv,
    listeners: process.eventNames().filter((name) => typeof name === 'string'),
    resources: process.getActiveResourcesInfo(),
    keys: [...Object.keys(process), ...Object.keys(globalThis)].filter((key) => /rpm/i.test(key)),
  }));
  process.exit();
});
