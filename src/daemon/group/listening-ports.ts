// Which TCP ports something in a Linux guest listens on, from what its kernel shows in /proc/net/tcp and /proc/net/tcp6
// (proc_net_tcp: local_address is ADDRESS:PORT in hexadecimal; st 0A is TCP_LISTEN).

/** Where Linux shows its sockets. */
export const socketTables = ['/proc/net/tcp', '/proc/net/tcp6'] as const;

const loopback4 = /^[0-9A-F]{6}7F$/;
const loopback6 = '00000000000000000000000001000000';

/** Whether a table has a socket that listens on the port, on more than the loopback address. */
export function listensOn(table: string, port: number): boolean {
  const wanted = port.toString(16).toUpperCase().padStart(4, '0');
  return table.split('\n').some((line) => {
    const [, local = '', , state] = line.trim().split(/\s+/);
    const [address = '', found] = local.split(':');
    if (state !== '0A' || found !== wanted) return false;
    return address.length === 8 ? !loopback4.test(address) : address !== loopback6;
  });
}
