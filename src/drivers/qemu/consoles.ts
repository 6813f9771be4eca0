// The ways to look at a guest: its serial console through the broker, and its display's RFB stream.
import { type Duplex } from 'node:stream';
import { LodgeError } from '../../api/errors.ts';
import { type VmFolder } from './folder.ts';
import { dial } from './qmp/dial.ts';
import { SerialBroker } from './serial/broker.ts';

export interface GuestConsoles {
  readonly hasDisplay: boolean;
  openSerial(): Promise<Duplex>;
  openVnc(): Promise<Duplex>;
  /** Ends all of them. */
  close(): Promise<void>;
}

async function dialVnc(name: string, folder: VmFolder, hasDisplay: boolean): Promise<Duplex> {
  if (!hasDisplay) {
    throw new LodgeError('unsupported', `VM ${name} has no display.`, {
      hint: 'Set display to vnc; it takes effect at the next start. Its serial console is there.',
    });
  }
  return dial(folder.vncSocket, 5000);
}

/** The consoles of a running guest. */
export function openConsoles(name: string, folder: VmFolder, hasDisplay: boolean): GuestConsoles {
  const serial = new SerialBroker(folder.serialSocket, folder.serialLog);
  return {
    hasDisplay,
    openSerial: () => serial.attach(),
    openVnc: () => dialVnc(name, folder, hasDisplay),
    close: async () => serial.close(),
  };
}
