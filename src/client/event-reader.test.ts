import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { LodgeError } from '../api/errors.ts';
import { EventParser, readEvents } from './event-reader.ts';

const options = {
  signal: undefined,
  idleTimeoutMs: 5_000,
  abort: () => undefined,
  describe: (failure: unknown) => failure,
};

function bodyOf(...chunks: string[]): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  return new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(encoder.encode(chunk));
      controller.close();
    },
  });
}

async function collect(iterable: AsyncIterable<unknown>): Promise<unknown[]> {
  const items: unknown[] = [];
  for await (const item of iterable) items.push(item);
  return items;
}

test('fields, comments, types, ids and lines of data are read as the standard says', () => {
  const parser = new EventParser();
  const text = '\uFEFF: comment\nid: 7\nevent: x\ndata: a\ndata:b\ndata:  c\n\nnothing\n\ndata\n\nid\ndata: z\n\n';
  assert.deepEqual(parser.push(text), [
    { event: 'x', data: 'a\nb\n c', id: '7' },
    { event: 'message', data: '', id: '7' },
    { event: 'message', data: 'z', id: '' },
  ]);
});

test('it makes no difference where the text is cut, or how lines end', () => {
  const events = [
    { event: 'message', data: '{"a":1}', id: '1' },
    { event: 'error', data: 'x\ny', id: '2' },
  ];
  fc.assert(
    fc.property(fc.constantFrom('\n', '\r', '\r\n'), fc.array(fc.nat(60), { maxLength: 8 }), (end, cuts) => {
      const text = [
        'id: 1',
        'data: {"a":1}',
        '',
        ': alive',
        '',
        'id: 2',
        'event: error',
        'data: x',
        'data: y',
        '',
        '',
      ].join(end);
      const parser = new EventParser();
      const places = [0, ...cuts.map((cut) => cut % text.length).sort((a, b) => a - b), text.length];
      const found = places.slice(1).flatMap((place, index) => parser.push(text.slice(places[index], place)));
      // A CR at the very end may be half of a CR LF, so its event waits.
      if (end === '\r') found.push(...parser.push('\n'));
      assert.deepEqual(found, events);
    }),
  );
});

test('documents come in order, and the end of the stream ends the iteration', async () => {
  assert.deepEqual(await collect(readEvents(bodyOf('data: {"n"', ':1}\n\ndata: 2\n', '\ndata: lost'), options)), [
    { n: 1 },
    2,
  ]);
});

test('an error in the stream is thrown as what it is', async () => {
  const error = new LodgeError('agent_unavailable', 'no agent').toBody();
  const events = readEvents(bodyOf('data: 1\n\n', `event: error\ndata: ${JSON.stringify(error)}\n\n`), options);
  assert.deepEqual(await events.next(), { done: false, value: 1 });
  await assert.rejects(
    events.next(),
    (failure) => failure instanceof LodgeError && failure.code === 'agent_unavailable',
  );
});

test('a stream that says nothing counts as broken', async () => {
  const silent = new ReadableStream<Uint8Array>({ pull: () => new Promise<void>(() => undefined) });
  let isAborted = false;
  const events = readEvents(silent, { ...options, idleTimeoutMs: 10, abort: () => (isAborted = true) });
  await assert.rejects(
    events.next(),
    (failure) => failure instanceof LodgeError && /nothing came/.test(failure.message),
  );
  assert.ok(isAborted);
});

test('giving up before the first event closes the connection', async () => {
  let isCancelled = false;
  const body = new ReadableStream<Uint8Array>({ cancel: () => void (isCancelled = true) });
  const events = readEvents(body, options);
  await events.return?.();
  assert.ok(isCancelled);
  assert.equal((await events.next()).done, true);
});

test('an aborted signal ends the iteration without an error', async () => {
  const controller = new AbortController();
  const body = bodyOf('data: 1\n\ndata: 2\n\n');
  const events = readEvents(body, { ...options, signal: controller.signal });
  await events.next();
  controller.abort();
  assert.equal((await events.next()).done, true);
});
