// Who is at the other end of a unix socket, as the kernel noted it when the connection was made: SO_PEERCRED, unix(7).
// Node has no getsockopt, so a small Perl program (perl-base is on every Debian) asks for it on an inherited descriptor.
// This is for the record of who did what. Who may connect at all is decided by the socket's file permissions.
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import type { Socket } from 'node:net';

/** The process at the other end, when it connected. */
export interface PeerCredentials {
  pid: number;
  uid: number;
  gid: number;
}

// SOL_SOCKET is 1 and SO_PEERCRED 17 on every Linux architecture Lodge runs on (asm-generic/socket.h). The socket comes
// as descriptor 3, because libuv makes descriptors 0 to 2 of a child blocking, and that would hold for the daemon too.
const program = [
  'open(my $socket, "+<&=", 3) or exit 1;',
  'my $packed = getsockopt($socket, 1, 17) or exit 1;',
  'print join(" ", unpack("iII", $packed));',
].join(' ');

/** Asks for the peer of a connected unix socket; null when that is not to be had. Never rejects; takes some milliseconds. */
export function peerCredentials(socket: Socket, timeoutMs = 2_000): Promise<PeerCredentials | null> {
  return new Promise((resolve) => {
    const descriptor = descriptorOf(socket);
    if (socket.destroyed || descriptor === null) {
      resolve(null);
      return;
    }
    let text = '';
    try {
      const child = spawn('perl', ['-e', program], {
        stdio: ['ignore', 'pipe', 'ignore', descriptor],
        timeout: timeoutMs,
        killSignal: 'SIGKILL',
      });
      child.once('error', () => resolve(null));
      child.stdout?.setEncoding('latin1').on('data', (chunk: string) => (text = (text + chunk).slice(0, 100)));
      child.once('close', () => {
        const match = /^(\d+) (\d+) (\d+)$/.exec(text);
        resolve(match === null ? null : { pid: Number(match[1]), uid: Number(match[2]), gid: Number(match[3]) });
      });
    } catch {
      resolve(null);
    }
  });
}

/**
 * The socket's descriptor. Node shows it only on the handle, which is undocumented; giving spawn the socket itself would
 * stop the daemon from reading it (child_process takes a stream given as stdio over).
 */
function descriptorOf(socket: Socket): number | null {
  const { _handle: handle } = socket as unknown as { _handle?: { fd?: unknown } | null };
  return typeof handle?.fd === 'number' && handle.fd >= 0 ? handle.fd : null;
}

/** The name of a user id from /etc/passwd; null when it has none there. */
export async function userName(uid: number): Promise<string | null> {
  return (await entries('/etc/passwd')).find((fields) => fields[2] === String(uid))?.[0] ?? null;
}

/** The id of a group from /etc/group; null when there is none of that name. */
export async function groupId(name: string): Promise<number | null> {
  const id = (await entries('/etc/group')).find((fields) => fields[0] === name)?.[2];
  return id === undefined || !/^\d+$/.test(id) ? null : Number(id);
}

/** Lines of passwd(5) and group(5), split into their fields. */
async function entries(path: string): Promise<string[][]> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.split('\n').map((line) => line.split(':'));
}
