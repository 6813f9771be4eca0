// An HTTP server in a network namespace that hands out one file in several ways, as good and bad mirrors do, and tells
// what it was asked for.
//
//   /file       the whole, or the range that is asked for, with a strong validator
//   /stalled    the first half, and then nothing more; a range is answered in full
//   /breaking   the first half, and then the connection breaks; a range is refused with 503 until /mend was asked for
//   /short      fewer bytes than were announced, each time from the start
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { type Cleanup } from './cleanup.ts';
import { serveIn, type NetworkNamespace } from './namespace.ts';

export interface FileServer {
  /** `http://127.0.0.1:PORT`. */
  url: string;
  /** What was asked for so far: `GET /file`, or `GET /file bytes=100-`. */
  requests: string[];
}

const program = `
const { createServer } = await import('node:http');
const { readFileSync } = await import('node:fs');
const content = readFileSync(process.argv[1]);
let isMended = false;
createServer((request, response) => {
  const { url, headers: { range } } = request;
  console.log(['GET', url, range].filter(Boolean).join(' '));
  const headers = { etag: '"one"', 'accept-ranges': 'bytes', 'content-type': 'application/octet-stream' };
  const start = /^bytes=(\\d+)-$/.exec(range ?? '')?.[1];
  if (url === '/mend') isMended = true;
  if (url === '/breaking' && range && !isMended) return response.writeHead(503).end();
  if (!['/file', '/stalled', '/breaking', '/short'].includes(url)) return response.writeHead(404).end();
  if (start !== undefined && url !== '/short') {
    const rest = content.subarray(Number(start));
    headers['content-range'] = 'bytes ' + start + '-' + (content.length - 1) + '/' + content.length;
    return response.writeHead(206, { ...headers, 'content-length': rest.length }).end(rest);
  }
  response.writeHead(200, { ...headers, 'content-length': content.length });
  if (url === '/file') return response.end(content);
  const half = content.subarray(0, content.length / 2);
  response.write(half, () => url !== '/stalled' && response.destroy());
}).listen(0, '127.0.0.1', function () { console.log('port ' + this.address().port); });`;

/** Starts it; it ends with the test. */
export async function serveFile(test: Cleanup, namespace: NetworkNamespace, path: string): Promise<FileServer> {
  const server = serveIn(test, namespace, program, path);
  const lines = createInterface({ input: server.stdout });
  const [first] = (await once(lines, 'line', { signal: AbortSignal.timeout(10_000) })) as [string];
  const requests: string[] = [];
  lines.on('line', (line: string) => requests.push(line));
  return { url: `http://127.0.0.1:${first.slice('port '.length)}`, requests };
}
