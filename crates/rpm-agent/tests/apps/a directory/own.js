// What a user preloads.
globalThis.ownPreload = true;
