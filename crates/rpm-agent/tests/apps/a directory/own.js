// A preload of the user's.
globalThis.ownPreload = true;
