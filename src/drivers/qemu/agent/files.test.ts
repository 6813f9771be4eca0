import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AgentRefusal, FakeAgent, SILENCE } from '../../../../test/support/fake-agent.ts';
import { AgentClient } from './client.ts';
import { AgentError } from './errors.ts';
import { CHUNK_BYTES, readGuestFile, writeGuestFile } from './files.ts';

/** An agent with files in memory. Short reads and writes are as an agent may do them. */
async function agentWithFiles(files: Map<string, Buffer>, takesAtMost = Infinity): Promise<FakeAgent> {
  const open = new Map<number, { path: string; at: number; mode: string }>();
  let last = 0;
  const file = (args: Record<string, unknown>): { path: string; at: number; mode: string } => {
    const found = open.get(args['handle'] as number);
    if (!found) throw new AgentRefusal(`handle '${String(args['handle'])}' has not been found`);
    return found;
  };
  const agent = await FakeAgent.listen({
    'guest-file-open': ({ path, mode }) => {
      if (mode === 'w') files.set(String(path), Buffer.alloc(0));
      else if (!files.has(String(path)))
        throw new AgentRefusal(`failed to open file '${String(path)}': No such file or directory`);
      open.set(++last, { path: String(path), at: 0, mode: String(mode) });
      return last;
    },
    'guest-file-read': (args) => {
      const handle = file(args);
      const content = files.get(handle.path) ?? Buffer.alloc(0);
      const chunk = content.subarray(handle.at, handle.at + (args['count'] as number));
      handle.at += chunk.length;
      const isEnd = chunk.length < (args['count'] as number);
      return { count: chunk.length, eof: isEnd, ...(chunk.length > 0 ? { 'buf-b64': chunk.toString('base64') } : {}) };
    },
    'guest-file-write': (args) => {
      const handle = file(args);
      const chunk = Buffer.from(String(args['buf-b64']), 'base64').subarray(0, takesAtMost);
      files.set(handle.path, Buffer.concat([files.get(handle.path) ?? Buffer.alloc(0), chunk]));
      return { count: chunk.length, eof: false };
    },
    'guest-file-seek': (args) => {
      const handle = file(args);
      handle.at = args['whence'] === 'end' ? (files.get(handle.path)?.length ?? 0) : (args['offset'] as number);
      return { position: handle.at, eof: false };
    },
    'guest-file-flush': () => ({}),
    'guest-file-close': (args) => {
      file(args);
      open.delete(args['handle'] as number);
      return {};
    },
    'test-open-files': () => open.size,
  });
  return agent;
}

async function collect(source: AsyncIterable<Buffer>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of source) chunks.push(chunk);
  return Buffer.concat(chunks);
}

const pattern = (bytes: number): Buffer =>
  Buffer.from(Array.from({ length: bytes }, (_, n) => (n * 7 + (n >> 8)) & 0xff));

test('a file comes out as it is, whatever its size, with progress and total', async () => {
  for (const size of [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES * 2 + 17]) {
    const content = pattern(size);
    await using agent = await agentWithFiles(new Map([['/etc/data', content]]));
    const client = new AgentClient(agent.path);
    const progress: [number, number | null][] = [];
    const copy = await collect(
      readGuestFile(client, '/etc/data', { onProgress: (done, total) => progress.push([done, total]) }),
    );
    assert.ok(copy.equals(content), `${size} bytes`);
    assert.deepEqual(progress.at(-1), size === 0 ? undefined : [size, size]);
    assert.equal(await agent.commands['test-open-files']?.({}), 0);
    client.close();
  }
});

test('a file goes in as it is, in pieces that the agent may take only partly', async () => {
  const content = pattern(CHUNK_BYTES + 1000);
  for (const takesAtMost of [Infinity, 100_003]) {
    const files = new Map<string, Buffer>([['/target', Buffer.from('old')]]);
    await using agent = await agentWithFiles(files, takesAtMost);
    const client = new AgentClient(agent.path);
    const pieces = [content.subarray(0, 3), new Uint8Array(0), content.subarray(3)];
    const progress: number[] = [];
    const written = await writeGuestFile(client, '/target', pieces, { onProgress: (done) => progress.push(done) });
    assert.equal(written, content.length);
    assert.ok(files.get('/target')?.equals(content));
    assert.equal(progress.at(-1), content.length);
    assert.equal(await agent.commands['test-open-files']?.({}), 0);
    client.close();
  }
});

test('the file is closed in the guest when the copy ends early or fails', async () => {
  const files = new Map([['/big', pattern(CHUNK_BYTES * 3)]]);
  await using agent = await agentWithFiles(files);
  const client = new AgentClient(agent.path);
  for await (const chunk of readGuestFile(client, '/big')) {
    assert.equal(chunk.length, CHUNK_BYTES);
    break;
  }
  assert.equal(await agent.commands['test-open-files']?.({}), 0);

  async function* broken(): AsyncGenerator<Uint8Array> {
    yield Buffer.from('abc');
    throw new Error('the source broke');
  }
  await assert.rejects(writeGuestFile(client, '/x', broken()), /the source broke/);
  assert.equal(await agent.commands['test-open-files']?.({}), 0);

  agent.commands['guest-file-flush'] = () => {
    throw new AgentRefusal('failed to flush file: No space left on device');
  };
  await assert.rejects(writeGuestFile(client, '/x', [Buffer.from('abc')]), /No space left on device/);
  assert.equal(await agent.commands['test-open-files']?.({}), 0);
  client.close();
});

test('an agent that lies about what it read or wrote is caught', async () => {
  await using agent = await agentWithFiles(new Map([['/f', pattern(100)]]));
  agent.commands['guest-file-read'] = () => ({ count: 100, eof: true, 'buf-b64': 'AAAA' });
  agent.commands['guest-file-write'] = () => ({ count: 1_000_000, eof: false });
  const client = new AgentClient(agent.path);
  await assert.rejects(collect(readGuestFile(client, '/f')), /announced 100 bytes and sent 3/);
  await assert.rejects(writeGuestFile(client, '/f', [Buffer.from('abc')]), /took 1000000 of 3 bytes/);
  agent.commands['guest-file-read'] = () => ({ count: 'many' });
  await assert.rejects(
    collect(readGuestFile(client, '/f')),
    (error) => error instanceof AgentError && error.reason === 'protocol',
  );
  client.close();
});

test('a copy ends at its deadline and by its signal', async () => {
  await using agent = await agentWithFiles(new Map([['/f', pattern(100)]]));
  agent.commands['guest-file-read'] = () => SILENCE;
  const client = new AgentClient(agent.path);
  await assert.rejects(
    collect(readGuestFile(client, '/f', { timeoutMs: 50 })),
    (error) => error instanceof AgentError && error.reason === 'timeout',
  );
  const abort = new AbortController();
  agent.commands['guest-file-read'] = () => {
    abort.abort();
    return SILENCE;
  };
  await assert.rejects(
    collect(readGuestFile(client, '/f', { signal: abort.signal })),
    (error) => error instanceof AgentError && error.reason === 'cancelled',
  );
  client.close();
});

test('an agent without the command is named as such before anything is sent', async () => {
  await using agent = await FakeAgent.listen({});
  const client = new AgentClient(agent.path);
  await assert.rejects(
    collect(readGuestFile(client, '/f')),
    (error) => error instanceof AgentError && error.reason === 'missing' && error.command === 'guest-file-open',
  );
  assert.deepEqual(agent.heard, ['guest-info']);
  client.close();
});
