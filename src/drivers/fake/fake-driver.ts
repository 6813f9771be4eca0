// A hypervisor without guests, for tests of everything above it. A guest is a file: whoever writes or removes the file
// (the driver, a later daemon, or a test) plays the hypervisor process. It keeps the promises of driver.ts and passes
// the same conformance suite as the real ones; it claims no capability that it doesn't play.
import { watch, type FSWatcher } from 'node:fs';
import { appendFile, copyFile, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LodgeError, invalidField } from '../../api/errors.ts';
import { type RungExits } from '../../api/node-measurement.ts';
import { type VmSpec } from '../../api/vm-spec.ts';
import { type VmPinned } from '../../api/vm.ts';
import {
  type Driver,
  type DriverInspection,
  type FirmwareCopy,
  type ForkOutcome,
  type ForkRequest,
  type Guest,
  type GuestDefinition,
  type SavedMemory,
  type SaveForManyRequest,
  type SerialOutput,
  type StartOptions,
} from '../driver.ts';
import { fakeHardware, fakeRoom } from './fake-devices.ts';
import { FakeGuest, fakeLag, type FakeProcess } from './fake-guest.ts';

export interface FakeDriverOptions {
  /** Where the guests' files are. */
  directory: string;
}

const machines = { q35: 'fake-q35-1.0', pc: 'fake-pc-1.0', microvm: 'microvm' };
/** In the folder of a VM. */
const firmwareFile = 'fake-firmware';
/** In the folder of saved memory. */
const memoryFile = 'memory';
const fakeVersion = '1.0';

/** Memory that many guests may go on from. */
interface SavedFake {
  source: FakeProcess;
  memory: [path: string, base64: string][];
}
const models = ['auto', 'host', 'max', 'x86-64-v2', 'x86-64-v3', 'x86-64-v4', 'qemu64'];

export class FakeDriver implements Driver {
  readonly name = 'fake';
  readonly #directory: string;
  readonly #guests = new Map<string, FakeGuest>();
  readonly #turns = new Map<string, Promise<void>>();
  #watcher: FSWatcher | null = null;
  #hasTidied = false;

  constructor(options: FakeDriverOptions) {
    this.#directory = options.directory;
  }

  async measureExits(): Promise<RungExits[]> {
    const problem = 'The fake driver runs no code, so nothing leaves a guest.';
    return [{ rung: 'tcg', cpuModel: null, costs: [], missing: [], problem }];
  }

  async inspect(): Promise<DriverInspection> {
    const yes = { isSupported: true, reason: 'Played by the fake driver' };
    const reason = 'The fake driver runs no code; it stands for emulation.';
    return {
      driver: {
        name: this.name,
        version: '1.0',
        isReady: true,
        reason: 'The fake driver is always ready.',
        capabilities: {
          pause: yes,
          suspend: yes,
          reset: yes,
          vnc: yes,
          screenshot: yes,
          serial: yes,
          agent: yes,
          uefi: yes,
          secureBoot: yes,
          tpm: yes,
          nmi: yes,
          virtiofs: yes,
          fork: yes,
        },
        machines: Object.keys(machines),
        cpuModels: models,
      },
      accelerators: [
        { rung: 'tcg', isUsable: true, isForOrdinaryGuests: true, reason, cpuModel: 'max', startMs: 0, costs: {} },
      ],
      accelerator: { chosen: 'tcg', rung: 'tcg', reason },
    };
  }

  async check(spec: VmSpec): Promise<void> {
    if (!models.includes(spec.cpu.model))
      throw invalidField('spec.cpu.model', `is one of ${models.join(', ')}`, spec.cpu.model);
    if (spec.accelerator === 'kvm')
      throw new LodgeError('unsupported', 'spec.accelerator: the fake driver has no KVM (given: "kvm").', {
        fields: [{ field: 'spec.accelerator', message: 'the fake driver has no KVM', value: spec.accelerator }],
        hint: 'Set accelerator to auto or tcg.',
      });
  }

  async start(definition: GuestDefinition, options: StartOptions = {}): Promise<Guest> {
    if (options.signal?.aborted) throw new LodgeError('cancelled', `Starting VM ${definition.name} was cancelled.`);
    if (options.isRestoring && !(await this.hasSavedState(definition))) {
      throw new LodgeError('wrong_state', `The saved memory of VM ${definition.name} is gone.`);
    }
    if (definition.spec.firmware.commandLineExtra.includes('fake.fail-start')) {
      throw new LodgeError('hypervisor_failed', `VM ${definition.name} could not be started: it was told to fail.`);
    }
    if (options.from) return this.#startFrom(definition, options.from);
    const pinned: VmPinned = {
      qemuVersion: '1.0',
      machine: machines[definition.spec.machine],
      accelerator: 'tcg',
      rung: 'tcg',
      acceleratorReason: 'The fake driver stands for emulation.',
      cpuModel: definition.spec.cpu.model === 'auto' ? 'max' : definition.spec.cpu.model,
      firmware: definition.firmware,
      cpuFeatures: [],
      arguments: ['fake', definition.id],
      ...definition.pinned,
      hardware: definition.hardware,
      hotplug: fakeRoom(definition, options.isRestoring ?? false),
    };
    await mkdir(definition.directory, { recursive: true });
    await this.#write(definition.id, {
      name: definition.name,
      state: 'running',
      pinned,
      macs: definition.nics.map((nic) => nic.mac),
      links: definition.nics.map((nic) => nic.isConnected),
      disks: filesOf(definition),
      hardware: fakeHardware(definition),
      wasRestored: options.isRestoring ?? false,
      ...(options.bootFirst ? { bootedFirst: options.bootFirst } : {}),
      clockLagMs: options.isRestoring ? fakeLag.savedMs : 0,
    });
    // Memory is continued from once: the guest that exists now has gone on from it.
    await rm(join(definition.directory, 'memory.state'), { force: true });
    await appendFile(join(definition.directory, 'serial.log'), 'fake guest: booting\r\nlodge: ready\r\n');
    return this.#track(definition, pinned);
  }

  async fork(parent: Guest, { copies, signal, onStopped, onCopy }: ForkRequest): Promise<ForkOutcome> {
    const source = await this.read(parent.id);
    if (!source) throw new LodgeError('hypervisor_failed', `The guest ${parent.id} exists no more.`);
    if (source.state !== 'running')
      throw new LodgeError('wrong_state', `VM ${source.name} is ${source.state} and can not be forked.`);
    if (signal?.aborted) throw new LodgeError('cancelled', `It was cancelled to fork VM ${source.name}.`);
    const made: FakeGuest[] = [];
    try {
      await onStopped?.();
      for (const define of copies) {
        const definition = await define();
        if (definition.spec.firmware.commandLineExtra.includes('fake.fail-start'))
          throw new LodgeError('hypervisor_failed', `VM ${definition.name} could not be started: it was told to fail.`);
        await mkdir(definition.directory, { recursive: true });
        const links = definition.nics.map((nic) => nic.isConnected);
        // What runs in it has the addresses of its original until somebody changes them.
        await this.#write(definition.id, {
          ...source,
          name: definition.name,
          disks: filesOf(definition),
          wasRestored: true,
          links,
        });
        const guest = await this.#track(definition, { ...source.pinned, arguments: ['fake', definition.id] });
        made.push(guest);
        guest.inherit(parent);
        await onCopy?.(guest, definition);
      }
    } catch (error) {
      await Promise.all(made.map((guest) => guest.end()));
      throw error;
    }
    return { copies: made, pauseMs: 0, frozenMib: 1 };
  }

  async saveForMany(
    parent: Guest,
    { directory, signal, onStopped }: SaveForManyRequest,
  ): Promise<{ memory: SavedMemory; pauseMs: number }> {
    const source = await this.read(parent.id);
    if (!source || !(parent instanceof FakeGuest))
      throw new LodgeError('hypervisor_failed', `The guest ${parent.id} exists no more.`);
    if (signal?.aborted) throw new LodgeError('cancelled', `It was cancelled to save VM ${source.name}.`);
    await onStopped?.();
    await rm(directory, { recursive: true, force: true });
    await mkdir(directory, { recursive: true });
    const saved: SavedFake = { source, memory: parent.memory() };
    const text = JSON.stringify(saved);
    await writeFile(join(directory, memoryFile), text);
    return { memory: { directory, state: { version: fakeVersion, length: text.length } }, pauseMs: 0 };
  }

  async whyNotUsable({ state }: SavedMemory): Promise<string | null> {
    return state['version'] === fakeVersion ? null : `it was saved by version ${state['version']}`;
  }

  async #startFrom(definition: GuestDefinition, memory: SavedMemory): Promise<Guest> {
    const reason = await this.whyNotUsable(memory);
    if (reason) throw new LodgeError('unsupported', `VM ${definition.name} can’t go on from this memory: ${reason}.`);
    const text = await readFile(join(memory.directory, memoryFile), 'utf8').catch(() => '');
    if (text.length !== memory.state['length'])
      throw new LodgeError('image_invalid', 'The saved memory is damaged: its file is not as it was saved.');
    const saved = JSON.parse(text) as SavedFake;
    await mkdir(definition.directory, { recursive: true });
    await this.#write(definition.id, {
      ...saved.source,
      name: definition.name,
      disks: filesOf(definition),
      wasRestored: true,
      links: definition.nics.map((nic) => nic.isConnected),
    });
    const guest = await this.#track(definition, { ...saved.source.pinned, arguments: ['fake', definition.id] });
    guest.recall(saved.memory);
    return guest;
  }

  async discover(): Promise<ReadonlySet<string>> {
    const files = await readdir(this.#directory).catch(() => []);
    if (this.#guests.size === 0 && !this.#hasTidied) {
      // What a driver that died was writing; this one writes nothing yet.
      for (const file of files) if (file.endsWith('.new')) await rm(join(this.#directory, file), { force: true });
    }
    this.#hasTidied = true;
    return new Set(files.filter((file) => file.endsWith('.json')).map((file) => file.slice(0, -5)));
  }

  async adopt(
    definition: Pick<GuestDefinition, 'id' | 'name' | 'directory'> & { pinned: VmPinned },
  ): Promise<Guest | null> {
    if (!(await this.read(definition.id))) return null;
    await rm(join(definition.directory, 'memory.state'), { force: true });
    return this.#track(definition, definition.pinned);
  }

  async lastWords(): Promise<{ cause: 'hypervisor-died'; message: string }> {
    return { cause: 'hypervisor-died', message: 'Its file was removed.' };
  }

  async endUnknown(id: string): Promise<void> {
    await rm(this.#path(id), { force: true });
    await rm(`${this.#path(id)}.new`, { force: true });
  }

  async useSavedState(definition: Pick<GuestDefinition, 'directory'>, path: string): Promise<void> {
    await mkdir(definition.directory, { recursive: true });
    await copyFile(path, join(definition.directory, 'memory.state'));
  }

  hasSavedState(definition: Pick<GuestDefinition, 'directory'>): Promise<boolean> {
    return stat(join(definition.directory, 'memory.state')).then(
      (state) => state.isFile(),
      () => false,
    );
  }

  async forget(definition: Pick<GuestDefinition, 'directory'>, what: 'state' | 'everything'): Promise<void> {
    await rm(what === 'state' ? join(definition.directory, 'memory.state') : definition.directory, {
      recursive: true,
      force: true,
    });
  }

  async resetFirmware(
    { name, spec, firmware }: Pick<GuestDefinition, 'name' | 'spec' | 'firmware'>,
    what: 'variables' | 'tpm',
  ): Promise<void> {
    if (what === 'tpm') {
      if (spec.tpm?.isEnabled) return;
      throw new LodgeError('unsupported', `VM ${name} has no TPM.`);
    }
    if (firmware === 'uefi') return;
    throw new LodgeError('unsupported', `VM ${name} has no UEFI variable store: it boots by ${firmware}.`);
  }

  /** What a played firmware remembers is the file that a test has put there. */
  async copyFirmware({ from, to }: FirmwareCopy): Promise<void> {
    await mkdir(to, { recursive: true });
    await rm(join(to, firmwareFile), { force: true });
    await copyFile(join(from, firmwareFile), join(to, firmwareFile)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error;
    });
  }

  async serialLog(definition: Pick<GuestDefinition, 'directory'>, maxBytes: number): Promise<SerialOutput> {
    const path = join(definition.directory, 'serial.log');
    const content = await readFile(path).catch(() => Buffer.alloc(0));
    const bytes = content.subarray(Math.max(0, content.length - maxBytes));
    const atMs = bytes.length === 0 ? null : Math.floor((await stat(path)).mtimeMs);
    return { bytes, times: bytes.length === 0 ? [] : [{ end: bytes.length, atMs }] };
  }

  async processLog(): Promise<string> {
    return '';
  }

  async close(): Promise<void> {
    this.#watcher?.close();
    for (const guest of this.#guests.values()) await guest.release();
    this.#guests.clear();
  }

  /** What a guest's file says; null: no guest. */
  async read(id: string): Promise<FakeProcess | null> {
    try {
      return JSON.parse(await readFile(this.#path(id), 'utf8')) as FakeProcess;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
      throw error;
    }
  }

  #path(id: string): string {
    return join(this.#directory, `${id}.json`);
  }

  /** One change of a guest's file at a time: none is lost, and none brings back a guest that was just ended. */
  #inTurn(id: string, work: () => Promise<void>): Promise<void> {
    const turn = (this.#turns.get(id) ?? Promise.resolve()).then(work);
    const settled = turn.catch(() => {});
    this.#turns.set(id, settled);
    void settled.then(() => {
      if (this.#turns.get(id) === settled) this.#turns.delete(id);
    });
    return turn;
  }

  /** Replaces the file as a whole, so that nobody reads half of it. */
  async #write(id: string, process: FakeProcess): Promise<void> {
    await mkdir(this.#directory, { recursive: true });
    await writeFile(`${this.#path(id)}.new`, JSON.stringify(process));
    await rename(`${this.#path(id)}.new`, this.#path(id));
  }

  async #track(definition: Pick<GuestDefinition, 'id' | 'name' | 'directory'>, pinned: VmPinned): Promise<FakeGuest> {
    this.#watcher ??= watch(this.#directory, (_, file) => {
      const id = file?.endsWith('.json') ? file.slice(0, -5) : null;
      if (id) void this.#guests.get(id)?.look();
    });
    const guest = new FakeGuest({
      id: definition.id,
      name: definition.name,
      directory: definition.directory,
      pinned,
      read: () => this.read(definition.id),
      change: (change) =>
        this.#inTurn(definition.id, async () => {
          const now = await this.read(definition.id);
          if (!now) throw new LodgeError('hypervisor_failed', `VM ${definition.name} exists no more.`);
          await this.#write(definition.id, change(now));
        }),
      remove: () => this.#inTurn(definition.id, () => this.endUnknown(definition.id)),
      onEnded: () => this.#guests.delete(definition.id),
    });
    this.#guests.set(definition.id, guest);
    await guest.look();
    return guest;
  }
}

/** Files of the layers of each disk, top first. */
function filesOf({ disks }: GuestDefinition): Record<string, string[]> {
  const withMedium = disks.filter(({ layers }) => layers.length > 0);
  return Object.fromEntries(withMedium.map(({ name, layers }) => [name, layers.map(({ path }) => path)]));
}
