// A QMP monitor that does what the test says: it greets and negotiates by itself, and everything else is the test's.
import { UnixPeer } from './unix-peer.ts';

export const GREETING = {
  QMP: { version: { qemu: { major: 10, minor: 0, micro: 2 }, package: 'fake' }, capabilities: ['oob'] },
};

/** Listens as a monitor. `capabilities` are those offered. */
export async function listenAsMonitor(capabilities: readonly string[] = ['oob']): Promise<UnixPeer> {
  return UnixPeer.listen((socket) => {
    socket.write(`${JSON.stringify({ QMP: { ...GREETING.QMP, capabilities } })}\r\n`);
    // The first line of a client is its negotiation; the reply quotes its id.
    socket.once('data', (chunk: Buffer) => {
      const { id } = JSON.parse(chunk.toString().split('\n')[0] ?? '') as { id: number };
      socket.write(`${JSON.stringify({ return: {}, id })}\r\n`);
    });
  });
}
