// What a hypervisor must do for Lodge: start guests, find them again, act on them, and tell what happens to them.
// The daemon knows only this file; driver.conformance.ts says what every driver must keep.
//
// Promises of every driver:
// - A guest outlives the daemon. Whatever the daemon was doing when it died, `discover` finds every guest that exists.
// - `start` either answers with a guest that runs, or throws and leaves nothing behind.
// - What a guest tells through `watch` comes in order, and its last message is `ended`, once.
// - Every call ends: by its answer, by an error, or by its deadline.
import { type Duplex } from 'node:stream';
import { type BootDevice } from '../api/boot-order.ts';
import { type AcceleratorRung, type DriverStatus, type NodeStatus } from '../api/node.ts';
import { type RungExits } from '../api/node-measurement.ts';
import { type ExecOutput } from '../api/vm-guest.ts';
import { type GuestGlance, type GuestMetrics, type GuestReport } from '../api/vm-guest-info.ts';
import { type DiskBus, type NicModel, type VmHardware } from '../api/vm-hardware.ts';
import { type VmPlacement } from '../api/vm-placement.ts';
import { type SharedFolderDriver } from '../api/vm-shared-folder.ts';
import { type VmDiskLimits, type VmSpec, type VmUsbDevice } from '../api/vm-spec.ts';
import { type Picture } from '../lib/picture.ts';
import { type VmExit, type VmPinned } from '../api/vm.ts';
import { type VmExits } from '../api/vm-exits.ts';
import { type GuestCounters, type GuestDetail, type GuestMemoryShares, type GuestUsage } from './measured.ts';
import { type GuestLimits, type GuestTuning } from './guest-tuning.ts';

/** A file or device that holds a disk's blocks. */
export interface DiskLayer {
  /** Absolute path on the node. */
  path: string;
  format: 'qcow2' | 'raw';
}

/** A disk or CD-ROM as the hypervisor attaches it. */
export interface GuestDisk {
  name: string;
  device: 'disk' | 'cdrom';
  bus: DiskBus;
  cache: VmSpec['disks'][number]['cache'];
  isReadOnly: boolean;
  /** The layer that is written to first, then what it is based on. Empty: a drive without a medium. */
  layers: DiskLayer[];
  /** Without them, it may do as much as it can. */
  limits?: VmDiskLimits | undefined;
  /** Place in the boot order, from 1. Without it, it is not booted from. */
  bootIndex?: number | undefined;
}

/** How a NIC reaches its network. */
export type NicAttachment =
  /** `device`: of a macvtap, its character device; else it is a tap of /dev/net/tun. */
  | { kind: 'tap'; hostInterface: string; device?: string }
  | {
      kind: 'user';
      /** Prefix inside the user-mode network: 10.0.2.0/24. */
      ipv4Cidr: string;
      dnsDomain: string;
      hostname: string;
    };

/** A NIC as the hypervisor attaches it. */
export interface GuestNic {
  mac: string;
  model: NicModel;
  /** Pairs of queues; 1 but for virtio. */
  queues: number;
  mtu: number;
  isConnected: boolean;
  /** Place in the boot order, from 1. Without it, it is not booted from. */
  bootIndex?: number | undefined;
  attachment: NicAttachment;
}

/** A folder of the node that the guest can mount. */
export interface GuestSharedFolder {
  /** The tag by which the guest mounts it. */
  name: string;
  model: SharedFolderDriver;
  isReadOnly: boolean;
  /** Absolute, without symbolic links. Belongs to anybody but root, unless it is read-only. */
  path: string;
}

/** Everything a driver needs to start a guest; nothing in it is a name that has to be looked up. */
export interface GuestDefinition {
  id: string;
  name: string;
  spec: VmSpec;
  /** Its devices, resolved: what the spec leaves open is decided here. Bus and model of `disks` and `nics` are the same. */
  hardware: VmHardware;
  /** What it is to have room for without a restart; MiB. Without it, for what the spec has. */
  room?: { vcpus: number; memoryMib: number };
  /** Options of the last start that stay the same now; null at the first start. */
  pinned: VmPinned | null;
  /** What the image allows and the spec asks for, resolved. */
  firmware: VmPinned['firmware'];
  /** For direct boot: files and kernel command line. */
  kernel: { kernelPath: string; initramfsPath: string | null; commandLine: string } | null;
  disks: GuestDisk[];
  nics: GuestNic[];
  /** Without it, none. */
  sharedFolders?: readonly GuestSharedFolder[];
  /** Where it is to run; without it, anywhere. */
  placement?: VmPlacement | null;
  /** What it may take of the node; without it, all. */
  limits?: GuestLimits;
  /** VM generation ID, a UUID; without it the guest is given none. Microsoft’s “Virtual Machine Generation ID” specification. */
  generationId?: string | null;
  /** Folder of this VM on the node; the driver makes it and keeps what belongs to the guest in it. */
  directory: string;
  /** Unprivileged user and group the hypervisor's process runs as. */
  uid: number;
}

/** What is remembered of a guest that was started before, and enough to find it again. */
export interface KnownGuest extends Pick<GuestDefinition, 'id' | 'name' | 'directory'> {
  pinned: VmPinned;
}

/** How a guest is doing, as the hypervisor answers. `shutdown`: the guest has powered itself off and waits to be ended. */
export type GuestState = 'running' | 'paused' | 'crashed' | 'shutdown';

/** What a guest tells by itself. */
export type GuestMessage =
  | { type: 'state'; state: GuestState }
  /** The guest was reset, by itself or by somebody. */
  | { type: 'reset' }
  /** A program in the guest opened or closed the agent's channel. */
  | { type: 'agent'; isConnected: boolean }
  /** The process that is the guest's TPM has ended, and the guest goes on without one. */
  | { type: 'tpm-died'; message: string }
  /** What serves its folders that are shared by virtio-fs has ended; the guest goes on without them. */
  | { type: 'shared-folders-died'; message: string }
  /** A disk reported an error to the guest. */
  | { type: 'disk-error'; disk: string; message: string }
  /** Of its devices something has come, gone or changed its size without being asked at this moment; `devices` tells. */
  | { type: 'devices' }
  /** Control of the guest was lost and is being regained, or is back. */
  | { type: 'control'; isConnected: boolean }
  /** The guest exists no more. */
  | {
      type: 'ended';
      cause: Extract<VmExit['cause'], 'stopped' | 'hypervisor-died' | 'out-of-memory'>;
      message: string;
    };

/** Options of calls that may take long. */
export interface CallOptions {
  signal?: AbortSignal;
  /** Milliseconds. */
  timeoutMs?: number;
}

/** How a guest is started. */
/**
 * Memory and devices of a guest that `saveForMany` has saved: any number of guests may go on from them, which share the
 * memory until they write to it. Files in a folder, and what the driver has to know of them, which is kept with them.
 */
export interface SavedMemory {
  directory: string;
  state: Readonly<Record<string, string | number>>;
}

/** How memory is saved for many guests to go on from. */
export interface SaveForManyRequest extends CallOptions {
  /** Spec that the guest was started with. */
  spec: Pick<VmSpec, 'machine' | 'memoryMib'>;
  /** Folder for the files, which is made. */
  directory: string;
  /** Called while the guest stands still: its disks are frozen here. When it throws, nothing is left. */
  onStopped?: () => Promise<void>;
}

export interface StartOptions extends CallOptions {
  /**
   * It goes on from memory that was saved of another guest. Its definition is as for a copy by `fork`. Throws
   * `image_invalid` where the files are not what was saved, `unsupported` for the reason of `whyNotUsable`.
   */
  from?: SavedMemory;
  /** It goes on from what `suspend` saved. */
  isRestoring?: boolean;
  /** Tried before all others at this boot only: when the guest is reset, the order of its definition counts again. */
  bootFirst?: BootDevice | undefined;
}

/** How a guest's memory is saved. */
export interface SuspendOptions extends CallOptions {
  onProgress?: (bytesDone: number, bytesTotal: number) => void;
  /** Called when everything is saved for good, before the guest is ended; it is ended when this resolves. */
  onSaved?: () => Promise<void>;
}

/** Running copies of a running guest that are wanted. */
export interface ForkRequest extends CallOptions {
  /** Spec that the guest was started with. */
  spec: Pick<VmSpec, 'machine' | 'memoryMib'>;
  /**
   * Gives the definition of each copy, called when its process is about to be started, while the guest is being saved or
   * after that. They have the hardware that the guest was started with: same machine, memory, processors, devices in the
   * same places. Their own are identity (id, name, user, folder), addresses, what NICs are attached to, whether their links
   * are up, and the files that the disks' layers lie in, whose content is the same.
   */
  copies: readonly (() => Promise<GuestDefinition>)[];
  /** Called while the guest stands still, with all it has written in its disks: they are frozen here. When it throws, nothing was made. */
  onStopped?: () => Promise<void>;
  /** Called for each copy as soon as it runs, in any order; when it throws, the fork fails. */
  onCopy?: (guest: Guest, definition: GuestDefinition) => Promise<void>;
}

/** What came of a fork. */
export interface ForkOutcome {
  /** In the order of the request. */
  copies: Guest[];
  /** How long the guest stood still, milliseconds. */
  pauseMs: number;
  /** Memory that the copies share until they write to it, MiB. */
  frozenMib: number;
}

/** What a program run in the guest is given. */
export interface GuestExecRequest {
  command: readonly string[];
  environment: readonly string[];
  input: Uint8Array | null;
  timeoutMs: number;
}

/** The agent in the guest. Every call throws `agent_unavailable` where none answers, `unsupported` where it lacks the command. */
export interface GuestAgent {
  /** Whether an agent answers within the deadline. */
  isAnswering(options?: CallOptions): Promise<boolean>;
  /** What the guest tells of itself. What it doesn't tell is named, and the rest is told. */
  info(options?: CallOptions): Promise<GuestReport>;
  /** As much of it as is asked for regularly: what costs the guest little. */
  glance(options?: CallOptions): Promise<GuestGlance>;
  /** What the guest measures; in part also where no agent answers, if the hypervisor has other ways to ask it. */
  metrics(options?: CallOptions): Promise<GuestMetrics>;
  exec(request: GuestExecRequest, options?: CallOptions): AsyncIterable<ExecOutput>;
  readFile(path: string, options?: CallOptions): AsyncIterable<Uint8Array>;
  writeFile(path: string, content: AsyncIterable<Uint8Array>, options?: CallOptions): Promise<void>;
  /** Sets the guest's clock, milliseconds since 1970. */
  setTime(timeMs: number, options?: CallOptions): Promise<void>;
  /** Number of file systems frozen. */
  freeze(options?: CallOptions): Promise<number>;
  /** Number of file systems thawed. */
  thaw(options?: CallOptions): Promise<number>;
}

/** A disk as the hypervisor has it now. */
export interface DiskReport {
  name: string;
  /** Size of what is in it, MiB, rounded down; null: no medium, or a drive without one. */
  sizeMib: number | null;
  /** Why it can't be taken out while the guest runs; null: it can. */
  fixedBy: string | null;
}

/** A NIC as the hypervisor has it now. */
export interface NicReport {
  mac: string;
  fixedBy: string | null;
}

/**
 * What a guest is made of now, by its hypervisor's own answers, and what could change without a restart. Every `reason`
 * says, for people, what the limit beside it comes from.
 */
export interface DeviceReport {
  vcpus: { now: number; least: number; most: number; reason: string };
  /** MiB. Between least and most, memory changes by multiples of stepMib. */
  memory: { nowMib: number; leastMib: number; mostMib: number; stepMib: number; reason: string };
  /** What the balloon leaves the guest, MiB; null: it has none, for the reason. */
  balloon: { nowMib: number | null; reason: string };
  disks: DiskReport[];
  nics: NicReport[];
  usbDevices: string[];
  /** What could be added: buses of disks, models of NICs, USB devices, and how many disks and NICs in all. */
  room: { diskBuses: string[]; nicModels: string[]; hasUsb: boolean; slots: number; reason: string };
}

/** What a serial console has printed. */
export interface SerialOutput {
  bytes: Uint8Array;
  /**
   * When it came, from its beginning to its end: each piece ends before the byte `end` and had come by `atMs`, milliseconds
   * since 1970; null: not known. The last one ends with the output.
   */
  times: readonly { end: number; atMs: number | null }[];
}

/** An empty layer that is to be put on a disk of a guest. Its file is there. */
export interface FreshLayer {
  /** Name of the disk. */
  disk: string;
  layer: DiskLayer;
}

/** Two layers of a disk, one on the other, that are to become one. */
export interface LayerMerge {
  /** Name of the disk. */
  disk: string;
  upper: DiskLayer;
  lower: DiskLayer;
  /** What `lower` is based on; null: nothing. */
  below: DiskLayer | null;
  /** The layer on `upper`; null: `upper` is the one that is written. */
  above: DiskLayer | null;
  /** The file that holds both afterwards. Choose the one that holds more: what the other holds is copied. */
  into: 'upper' | 'lower';
}

export interface LayerMergeOptions extends CallOptions {
  onProgress?: (bytesDone: number, bytesTotal: number) => void;
  /**
   * Called where the layer that the guest writes is merged into the one below: both are equal, the guest's writes wait
   * until this resolves, and then go to the lower one. Whoever keeps record of layers writes it down here.
   */
  onSwitch?: () => Promise<void>;
}

/**
 * The layers of a guest's disks, while it exists. Every call throws `unsupported` for a guest that was started by a Lodge
 * without them. Layers are known by the paths of their files.
 */
export interface GuestSnapshots {
  /** What is open, by the name of the disk, the layer that is written first. Drives without a medium are not in it. */
  layers(options?: CallOptions): Promise<ReadonlyMap<string, readonly string[]>>;
  /** Opens fresh layers, so that `freeze` takes no longer than it must. Nothing changes for the guest. */
  open(fresh: readonly FreshLayer[], options?: CallOptions): Promise<void>;
  /**
   * Puts a fresh layer on each of these disks, in one step for all: what was written until then stays in the layers below,
   * what follows goes to the fresh ones. It may run or be paused. When it fails, nothing has changed.
   */
  freeze(fresh: readonly FreshLayer[], options?: CallOptions): Promise<void>;
  /** Makes one of two layers while the guest goes on. When it fails or is cancelled, both are as they were. */
  merge(merge: LayerMerge, options?: LayerMergeOptions): Promise<void>;
  /**
   * Ends what an earlier daemon has left under way: a switch that `layers`, the record, has already is done, every other
   * merge is cancelled, and what is open beside these layers is closed.
   */
  settle(layers: ReadonlyMap<string, readonly string[]>, options?: CallOptions): Promise<void>;
  /**
   * Freezes the disks and saves memory and devices as they are in the same moment. Answers as soon as the guest runs on;
   * `finish` of the answer waits until all is saved. When it fails before, the disks may be frozen all the same.
   */
  capture(fresh: readonly FreshLayer[], options: CaptureOptions): Promise<MemoryCapture>;
}

export interface CaptureOptions extends CallOptions {
  /** File that is made for the memory; `Driver.useSavedState` takes it. */
  path: string;
  /** Called while the guest stands still, after its disks were frozen; when it throws, nothing is saved. Let it be short. */
  onStopped?: () => Promise<void>;
  onProgress?: (bytesDone: number, bytesTotal: number) => void;
}

/** Memory that is being saved. */
export interface MemoryCapture {
  /** Whether the guest ran while its memory was saved, and why or why not. */
  isLive: boolean;
  reason: string;
  /** How long it stood still, milliseconds. */
  pauseMs: number;
  /** Resolves when everything is saved for good, with the bytes of the file. When it fails, there is no file. */
  finish: () => Promise<number>;
}

/** One change of a guest that runs. All MiB. */
export type DeviceChange =
  | { kind: 'vcpus'; count: number }
  | { kind: 'memory'; sizeMib: number }
  | { kind: 'balloon'; targetMib: number }
  | { kind: 'attach-disk'; disk: GuestDisk }
  | { kind: 'detach-disk'; name: string }
  | { kind: 'resize-disk'; name: string; sizeMib: number }
  | { kind: 'limits'; name: string; limits: VmDiskLimits | null }
  /** Another medium, or with no layers none, in a drive that stays. */
  | { kind: 'medium'; disk: GuestDisk; isForced: boolean }
  | { kind: 'attach-nic'; nic: GuestNic }
  | { kind: 'detach-nic'; mac: string }
  | { kind: 'link'; mac: string; isConnected: boolean }
  /** In this order, the first to be tried; takes effect when the guest boots the next time. */
  | { kind: 'boot-order'; order: BootDevice[] }
  | { kind: 'attach-usb'; device: VmUsbDevice }
  | { kind: 'detach-usb'; name: string };

/** A port of the host that leads to a port of a guest's NIC on a network inside its hypervisor. */
export interface UserForward {
  protocol: 'tcp' | 'udp';
  /** IPv4 address of the host; null: all of them. */
  hostAddress: string | null;
  hostPort: number;
  guestPort: number;
}

/** The devices of a guest, changed while it runs. */
export interface GuestDevices {
  report(options?: CallOptions): Promise<DeviceReport>;
  /** Where the guest has mounted what lies on a disk; null: its agent doesn't tell. */
  mountPoints(disk: string, options?: CallOptions): Promise<string[] | null>;
  /**
   * Makes one change, and answers when the guest has it. Done already: nothing happens. What can't be done leaves the
   * guest as it was: `unsupported`, `hypervisor_failed`; `timeout` when the guest itself didn't do its part, with what
   * it would have to do. Memory may have changed by a part of what was asked for then: `report` tells.
   */
  change(change: DeviceChange, options?: CallOptions): Promise<void>;
  /** Ports of the host that lead to a NIC whose attachment is of kind `user`. Throws `unsupported` for any other NIC. */
  forwards(mac: string): Promise<UserForward[]>;
  /** Adds a forward; `host_conflict` where the port can't be had. Adding what is there, removing what isn't: nothing happens. */
  addForward(mac: string, forward: UserForward): Promise<void>;
  removeForward(mac: string, forward: UserForward): Promise<void>;
}

/** A guest that exists: running, paused, or waiting to be ended. */
export interface Guest {
  readonly id: string;
  readonly pid: number | null;
  /** Options it was started with, and what was changed since. */
  readonly pinned: VmPinned;
  readonly agent: GuestAgent;
  readonly snapshots: GuestSnapshots;
  readonly devices: GuestDevices;
  readonly tuning: GuestTuning;

  /** Asks the hypervisor. */
  state(): Promise<GuestState>;
  /** Calls `listener` with what happens from now on. The answer ends it. */
  watch(listener: (message: GuestMessage) => void): () => void;

  /** Presses the power button (ACPI); the guest decides what to do. */
  powerDown(): Promise<void>;
  /** Ends the guest at once and returns when it exists no more. Does nothing if it doesn't. */
  end(): Promise<void>;
  reset(): Promise<void>;
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Saves memory and devices so that `start` with `isRestoring` continues from there, and ends the guest. On failure it runs on. */
  suspend(options: SuspendOptions): Promise<void>;

  /** What the display shows. Throws `unsupported` where it has none. */
  screenshot(): Promise<Picture>;
  sendKeys(combinations: readonly (readonly string[])[], holdMs: number): Promise<void>;
  injectNmi(): Promise<void>;
  /** Plugs the cable of a NIC in, or pulls it out. `nic`: its number in the definition. */
  setLink(nic: number, isUp: boolean): Promise<void>;
  /** The serial console: first what was kept of its output (at most 64 KiB), then live in both directions. */
  openSerial(): Promise<Duplex>;
  /** The RFB byte stream of the display. Throws `unsupported` where it has none. */
  openVnc(): Promise<Duplex>;

  usage(): Promise<GuestUsage>;
  /** What it has used so far, as far as that is cheap to read: hundreds of guests are asked each second. */
  counters(): Promise<GuestCounters>;
  /** What its hypervisor tells; where it doesn't within a second, that is null. */
  detail(): Promise<GuestDetail>;
  /**
   * Watches for a time why the guest leaves to its hypervisor. What can't be told is named in the answer. Throws `busy` while
   * it is being watched already.
   */
  exits(options: CallOptions & { watchMs: number; isTracing: boolean }): Promise<Omit<VmExits, 'at'>>;
  /** How its memory is made up. Costs the kernel a walk over it, milliseconds for GiB. Null when it exists no more. */
  memoryShares(): Promise<GuestMemoryShares | null>;
  /** Lets go of the guest without touching it: it runs on, and `discover` finds it later. */
  release(): Promise<void>;
}

/** What firmware and TPM of a VM remember, and where a copy of it is to be. */
export interface FirmwareCopy {
  /** Folder of a VM, or one that a copy was made to. */
  from: string;
  /** Folder of a VM, or any other, which is made. */
  to: string;
  /** User of the VM that it is for; null: it is only kept. */
  uid: number | null;
  /** Whether the TPM's state goes with it; otherwise there is none after that. */
  hasTpm: boolean;
  /** Whether it is to survive a power failure when this resolves. */
  isDurable: boolean;
}

/** How the driver stands on this node. */
export interface DriverInspection {
  driver: DriverStatus;
  accelerators: AcceleratorRung[];
  accelerator: NodeStatus['accelerator'];
}

/** A hypervisor. */
export interface Driver {
  readonly name: string;

  /** Looks at hypervisor and machine, and runs probe guests. `isFresh`: again, even if it was done since the machine started. */
  inspect(options?: CallOptions & { isFresh?: boolean }): Promise<DriverInspection>;

  /**
   * Refuses what this hypervisor can't do, naming the field: machine, CPU model, features, firmware, devices.
   * Called before anything is made. Throws `unsupported` or `invalid_request`.
   */
  check(spec: VmSpec, hardware: VmHardware): Promise<void>;

  /** Measures what leaving a guest costs, by guests of its own, which are gone when it resolves. Rung by rung, best first. */
  measureExits(options?: CallOptions & { onProgress?: (percent: number) => void }): Promise<RungExits[]>;

  /** Starts a guest, or restores it from what `suspend` saved; answers when its vCPUs run. */
  start(definition: GuestDefinition, options?: StartOptions): Promise<Guest>;

  /**
   * Makes running copies of a running guest: they go on from one moment of it, and share its memory until they write to it.
   * All of them, or none; the guest itself runs on either way, and nothing of it may run in a copy before the copy's links
   * are as defined. Throws `unsupported` with the reason where that can't be.
   */
  fork(guest: Guest, request: ForkRequest): Promise<ForkOutcome>;

  /**
   * Saves memory and devices of a running guest in files that survive a power failure, for any number of guests to go on
   * from; it runs on. When it fails, there are no files. Throws `unsupported` with the reason where that can't be.
   */
  saveForMany(guest: Guest, request: SaveForManyRequest): Promise<{ memory: SavedMemory; pauseMs: number }>;

  /**
   * Why no guest can go on from this memory any more: it was saved by another version of the hypervisor, or with another
   * processor. Null: nothing speaks against it; whether the files are whole is found out when a guest does.
   */
  whyNotUsable(memory: SavedMemory): Promise<string | null>;

  /** Every guest of this installation that exists on the node, by id, whether the daemon remembers it or not. */
  discover(): Promise<ReadonlySet<string>>;

  /**
   * Takes control of a guest that an earlier daemon started. Null if it exists no more; then `lastWords` tells why.
   */
  adopt(definition: KnownGuest, options?: CallOptions): Promise<Guest | null>;

  /** What is known of the end of a guest that exists no more, from what it left in its folder and the machine keeps. */
  lastWords(
    definition: Pick<GuestDefinition, 'id' | 'directory'>,
  ): Promise<{ cause: 'hypervisor-died' | 'out-of-memory'; message: string }>;

  /** Ends a guest that nobody knows, by its id. */
  endUnknown(id: string): Promise<void>;

  /**
   * Makes memory that `capture` has saved what `start` with `isRestoring` goes on from, in place of what there is. The file
   * stays. Only while the guest doesn't exist.
   */
  useSavedState(definition: Pick<GuestDefinition, 'id' | 'directory'>, path: string): Promise<void>;

  /** Whether there is saved memory that `start` with `isRestoring` would use. Only while the guest doesn't exist. */
  hasSavedState(definition: Pick<GuestDefinition, 'id' | 'directory'>): Promise<boolean>;

  /** Removes what the driver keeps of a guest that doesn't exist any more: its saved memory (`state`), or everything. */
  forget(definition: Pick<GuestDefinition, 'id' | 'directory'>, what: 'state' | 'everything'): Promise<void>;

  /**
   * Makes the UEFI variable store (`variables`) or the TPM anew, as the next start would for a VM that was never started.
   * Only while the guest doesn't exist. Throws `unsupported` where it has none.
   */
  resetFirmware(
    definition: Pick<GuestDefinition, 'id' | 'name' | 'directory' | 'spec' | 'firmware'>,
    what: 'variables' | 'tpm',
  ): Promise<void>;

  /**
   * Makes what firmware and TPM of one VM remember (UEFI variable store, state of the TPM) that of another, in place of what
   * that has: where the one has nothing, the other has nothing after that. The guest of the one may run, that of the other
   * doesn't exist. Can be repeated.
   */
  copyFirmware(copy: FirmwareCopy): Promise<void>;

  /** The last of the serial console's kept output; works while the guest doesn't exist too. */
  serialLog(definition: Pick<GuestDefinition, 'id' | 'directory'>, maxBytes: number): Promise<SerialOutput>;
  /** The last bytes of what the hypervisor's process printed. */
  processLog(definition: Pick<GuestDefinition, 'id' | 'directory'>, maxBytes: number): Promise<string>;

  /** Lets go of everything; guests run on. */
  close(): Promise<void>;
}
