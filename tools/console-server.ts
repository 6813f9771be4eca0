// The console while it is worked on: vite serves web/ as it stands at http://localhost:5173, and hands requests of the API
// on to a daemon, so that a change is seen without building.
//
//   npm run console:dev                                    with the daemon of this machine
//   npm run console:dev -- --server https://host:7443      with another
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { createServer } from 'vite';
import { consoleConfig } from './console-config.ts';

const { values: options } = parseArgs({
  options: { server: { type: 'string', default: 'https://localhost:7443' }, port: { type: 'string', default: '5173' } },
});

// The daemon's own authority is known to nobody here, and what is typed on this machine stays on it.
const proxy = { target: options.server, secure: false, ws: true, changeOrigin: false };
const server = await createServer({
  ...consoleConfig(join(dirname(import.meta.dirname), 'web')),
  html: {},
  server: {
    port: Number(options.port),
    strictPort: true,
    proxy: { '/v1': proxy, '/docs': proxy, '/openapi.json': proxy, '/readyz': proxy },
  },
});
await server.listen();
server.printUrls();
console.log(`  Requests of the API go to ${options.server}. Sign in with a token: lodge token create me --role admin`);
