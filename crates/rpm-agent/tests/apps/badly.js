// Listens with an invalid argument, and prints the error's location.
try {
  require('node:net').createServer().listen({});
} catch (error) {
  console.log(JSON.stringify(error.stack));
}
