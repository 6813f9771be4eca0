// The ways to look at a guest: its serial console through the broker, and its display's RFB stream.
import { type Duplex } from 'node:stream';
import { LodgeError } from '../../api/errors.ts';
import { type VmFolder } from './folder.ts';
import { dial, DialError } from './qmp/dial.ts';
import { SerialBroker } from './serial/broker.ts';
import { type TimedTail } from './serial/log.ts';

export interface GuestConsoles {
  readonly hasDisplay: boolean;
  openSerial(): Promise<Duplex>;
  openVnc(): Promise<Duplex>;
  /** The end of what the serial console has shown. */
  serialTail(maxBytes: number): Promise<TimedTail>;
  /** Ends all of them. */
  close(): Promise<void>;
}

const vncDialMs = 5000;

/** The consoles of a running guest. */
export function openConsoles(name: string, folder: VmFolder, hasDisplay: boolean): GuestConsoles {
  const serial = new SerialBroker(folder.serialSocket, folder.serialLog, { timesPath: folder.serialTimes });
  return {
    hasDisplay,
    openSerial: async () => {
      try {
        return await serial.attach();
      } catch (error) {
        throw unopened(name, 'serial console', error);
      }
    },
    openVnc: async () => {
      if (!hasDisplay) throw withoutDisplay(name);
      try {
        return await dial(folder.vncSocket, vncDialMs);
      } catch (error) {
        throw unopened(name, 'display', error);
      }
    },
    serialTail: (maxBytes) => serial.log.tail(maxBytes),
    close: () => serial.close(),
  };
}

export function withoutDisplay(name: string): LodgeError {
  return new LodgeError('unsupported', `VM ${name} has no display.`, {
    hint: 'Set display to vnc; it takes effect at the next start. Its serial console is there.',
  });
}

function unopened(name: string, what: string, error: unknown): LodgeError {
  const detail = error instanceof Error ? error.message : String(error);
  return error instanceof DialError
    ? new LodgeError('hypervisor_failed', `The ${what} of VM ${name} can’t be opened: QEMU does not answer on it.`, {
        cause: error,
      })
    : new LodgeError('rate_limited', `The ${what} of VM ${name} can’t be opened: ${detail}.`, {
        hint: 'Close another viewer first.',
        cause: error,
      });
}
