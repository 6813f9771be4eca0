// The fake driver as the conformance suites test it.
import { randomUUID } from 'node:crypto';
import { access, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext } from 'node:test';
import { vmSpec } from '../../api/vm-spec.ts';
import { type DriverSubject } from '../conformance-subject.ts';
import { plainHardware } from '../driver.conformance.ts';
import { type GuestDefinition } from '../driver.ts';
import { FakeDriver } from './fake-driver.ts';

export async function fakeSubject(context: TestContext): Promise<DriverSubject> {
  const folder = await mkdtemp(join(tmpdir(), 'lodge-fake-'));
  context.after(() => rm(folder, { recursive: true, force: true }));
  const guests = join(folder, 'guests');
  const define = async (commandLineExtra = ''): Promise<GuestDefinition> => {
    const id = randomUUID();
    const spec = vmSpec.parse({ firmware: { commandLineExtra } });
    return {
      id,
      name: `vm-${id.slice(0, 8)}`,
      spec,
      hardware: plainHardware(spec, { firmware: 'direct' }),
      pinned: null,
      firmware: 'direct',
      kernel: null,
      disks: [],
      nics: [],
      directory: join(folder, id),
      uid: 1_900_000_000,
    };
  };
  return {
    openDriver: () => new FakeDriver({ directory: guests }),
    define: () => define(),
    defineBroken: () => define('fake.fail-start'),
    kill: (guest) => rm(join(guests, `${guest.id}.json`)),
    traces: async ({ id }) => {
      const path = join(guests, `${id}.json`);
      return access(path).then(
        () => [path],
        () => [],
      );
    },
    untilUp: async () => {},
    dialogue: { typed: 'hello\n', answer: 'hello' },
    refused: [
      { spec: { cpu: { model: 'pentium9' } }, field: 'spec.cpu.model' },
      { spec: { accelerator: 'kvm' }, field: 'spec.accelerator' },
    ],
  };
}
