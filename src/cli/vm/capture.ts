// lodge vm capture: packets of a NIC into a file, or onward to another program.
import { createWriteStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { Readable, type Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { LodgeError } from '../../api/errors.ts';
import { formatBytes } from '../../lib/quantity.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { usageError } from '../usage-error.ts';
import { nicIndex } from './change.ts';
import { fetchVms } from './view.ts';

export interface CaptureOptions {
  nic: string;
  filter?: string;
  count?: number;
  /** Seconds. */
  time?: number;
  bytes?: number;
  file?: string;
}

export async function captureVm(session: Session, options: CaptureOptions, name: string): Promise<number> {
  const { client, project, terminal } = session;
  const { file, filter, count, time, bytes } = options;
  if (file === undefined && process.stdout.isTTY)
    throw usageError('packets are no text for a terminal', {
      hint: `Write them to a file with -w web1.pcap, or pass them on: lodge vm capture ${name} | tcpdump -r -`,
    });
  const vm = await withSuggestion(session, name, fetchVms, () =>
    client.vm.get({ params: { vm: name }, query: { project } }),
  );
  const gone = new AbortController();
  const stop = (): void => gone.abort(new LodgeError('cancelled', 'it was asked to end'));
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  const query = {
    project,
    nic: nicIndex(vm, options.nic),
    ...(filter === undefined ? {} : { filter }),
    ...(count === undefined ? {} : { packets: count }),
    ...(time === undefined ? {} : { timeS: time }),
    ...(bytes === undefined ? {} : { maxBytes: bytes }),
  };
  // The daemon ends it by itself; the call is to last as long.
  const timeoutMs = ((time ?? 60) + 60) * 1000;
  const answer = await client.vm.capture({ params: { vm: name }, query }, { signal: gone.signal, timeoutMs });
  for (const signal of signals) process.once(signal, stop);
  let received = 0;
  const target: Writable = file === undefined ? process.stdout : createWriteStream(file, { mode: 0o600 });
  if (file !== undefined) terminal.note(terminal.noteStyle.dim('Ctrl-C ends it.'));
  try {
    const counted = async function* (source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
      for await (const chunk of source) {
        received += chunk.length;
        yield chunk;
      }
    };
    await pipeline(Readable.from(answer, { objectMode: false }), counted, target);
  } catch (failure) {
    // Who ends it keeps what has come; who reads on another program's behalf may have had enough.
    const isOver = gone.signal.aborted || (failure instanceof Error && 'code' in failure && failure.code === 'EPIPE');
    if (!isOver) {
      if (file !== undefined && received === 0) await rm(file, { force: true });
      throw failure;
    }
  } finally {
    for (const signal of signals) process.off(signal, stop);
  }
  if (file !== undefined) terminal.line(`${file}: ${formatBytes(received)}. Read it: tcpdump -nr ${file}`);
  return 0;
}
