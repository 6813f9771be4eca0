// The address of a console's WebSocket: a ticket that is good for one connection is asked for each time.
import { client } from '../data/client.ts';

/** A fresh address of a VM's console. Rejects with the daemon's error, such as `wrong_state`. */
export async function consoleAddress(vmId: string, type: 'serial' | 'vnc'): Promise<string> {
  const { path } = await client.vm.openConsole({ params: { vm: vmId }, body: { type } });
  return `${location.protocol === 'http:' ? 'ws' : 'wss'}://${location.host}${path}`;
}
