// How QEMU is to be told to serve a serial console for SerialBroker: a socket for one client, and a log of everything.

/**
 * The arguments that make the character device `id`, to be named by the serial device (`isa-serial,chardev=<id>`).
 * `kinds` are the character devices that this QEMU has.
 *
 * A socket's own `logfile` has a flaw: whenever the client is a little slow and the socket is full (at about 280 bytes,
 * since a UART sends them one by one), QEMU logs the byte that it could not send, and logs it again when it can. So where
 * QEMU has the character device `hub` (10.0), the log is that of a second, always willing device beside the socket: a ring
 * buffer that nobody reads. With a device of the kind `file` instead, a full file system would silence the console.
 * What remains: when a client goes while the guest prints, what the guest prints until QEMU has noticed (milliseconds) is
 * in neither. The broker goes in quiet moments; a daemon that is killed does not.
 */
export function serialChardevArguments(
  id: string,
  socketPath: string,
  logPath: string,
  kinds: ReadonlySet<string>,
): string[] {
  const socket = `server=on,wait=off,path=${escape(socketPath)}`;
  const log = `logfile=${escape(logPath)},logappend=on`;
  if (!kinds.has('hub')) return ['-chardev', `socket,id=${id},${socket},${log}`];
  return [
    '-chardev',
    `socket,id=${id}-socket,${socket}`,
    '-chardev',
    `ringbuf,id=${id}-log,size=1024,${log}`,
    '-chardev',
    // The socket first: it is sent to before it is logged, which joining relies on.
    `hub,id=${id},chardevs.0=${id}-socket,chardevs.1=${id}-log`,
  ];
}

/** In an option of QEMU a comma is written twice. */
function escape(value: string): string {
  return value.replaceAll(',', ',,');
}
