// Listens with nonsense: prints where the error says it was.
try {
  require('node:net').createServer().listen({});
} catch (error) {
  console.log(JSON.stringify(error.stack));
}
