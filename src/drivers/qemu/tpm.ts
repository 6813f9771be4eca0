// The TPM 2.0 of a VM: one swtpm process beside its QEMU, in the same group, as the same user, in a session of its own. It
// outlives the daemon and ends with the connection of its QEMU; a later daemon finds it by the mark in its environment.
//
//   no key ──(first start, or reset)──▶ tpm.key.new ──(started, state written)──▶ tpm.key
//                                            key without state, state without key: refused, with what to do
//
// Promises: state is encrypted with a key that only root reads; swtpm is given it as a descriptor. What was sealed is never
// lost by a new TPM that nobody asked for.
import { existsSync } from 'node:fs';
import { randomBytes } from 'node:crypto';
import { chown, lstat, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { LodgeError } from '../../api/errors.ts';
import { launchConfined } from '../../host/launch/launch.ts';
import { findProcesses, identifyProcess, isAlive, terminateProcess, type ProcessIdentity } from '../../host/process.ts';
import { type GuestDefinition } from '../driver.ts';
import { hasFile, readTail, workNames, type VmFolder } from './folder.ts';

/** Environment variable that marks a TPM's process: `instance/id`. */
const markVariable = 'LODGE_VM_TPM';
/** AES-256. */
const keyBytes = 32;
const listenMs = 10_000;
const pollMs = 5;
const endMs = 2000;
/** As swtpm names what a TPM 2.0 must not forget. */
export const tpmStateFile = 'tpm2-00.permall';

/** How the process of a guest's TPM is found; null: it is gone. */
export type TpmProcess = ProcessIdentity | null;

export interface TpmLaunch {
  /** `instance/id`. */
  mark: string;
  program: string;
  cgroupProcsFiles: readonly string[];
  oomScoreAdjust: number;
}

/** What a machine of this type is given: the arguments of QEMU. */
export function tpmArguments({ spec }: Pick<GuestDefinition, 'spec'>): string[] {
  if (!spec.tpm?.isEnabled) return [];
  return [
    ...['-chardev', `socket,id=tpm-socket,path=${workNames.tpmSocket}`],
    ...['-tpmdev', 'emulator,id=tpm-backend,chardev=tpm-socket'],
    ...['-device', `${tpmModel(spec.machine)},id=tpm0,tpmdev=tpm-backend`],
  ];
}

/** The interface by which guests of a machine type look for a TPM 2.0. */
export function tpmModel(machine: GuestDefinition['spec']['machine']): 'tpm-crb' | 'tpm-tis' {
  return machine === 'q35' ? 'tpm-crb' : 'tpm-tis';
}

/** Starts the TPM; it waits for QEMU. Whatever is left of an earlier process is ended first. */
export async function startTpm(
  folder: VmFolder,
  definition: Pick<GuestDefinition, 'name' | 'uid' | 'pinned'>,
  { mark, program, cgroupProcsFiles, oomScoreAdjust }: TpmLaunch,
): Promise<TpmProcess> {
  await endTpm(mark);
  const keyPath = await provideState(folder, definition);
  const { uid, name } = definition;
  const key = (fd: number): string => `fd=${fd},mode=aes-256-cbc,format=binary`;
  const launched = await launchConfined({
    argv: [
      program,
      'socket',
      '--tpm2',
      ...['--tpmstate', 'dir=../tpm,mode=0600'],
      ...['--ctrl', `type=unixio,path=${workNames.tpmSocket},mode=0600`],
      ...['--key', key(10)],
      // In saved memory and on its way to another host the state is encrypted too.
      ...['--migration-key', key(11)],
      '--terminate',
    ],
    uid,
    gid: uid,
    cgroupProcsFiles,
    oomScoreAdjust,
    limits: { core: 0, nofile: 64 },
    files: [
      { path: keyPath, mode: 'ro', fd: 10 },
      { path: keyPath, mode: 'ro', fd: 11 },
    ],
    stdoutPath: folder.tpmLog,
    stderrPath: folder.tpmLog,
    cwd: folder.work,
    env: { [markVariable]: mark },
  });
  const identity = identifyProcess(launched.pid);
  const deadline = performance.now() + listenMs;
  while (!existsSync(folder.tpmSocket)) {
    if (identity && isAlive(identity) && performance.now() < deadline) {
      await delay(pollMs);
      continue;
    }
    const said = (await readTail(folder.tpmLog, 500)).toString('utf8').trim();
    await endTpm(mark);
    throw new LodgeError('hypervisor_failed', `The TPM of VM ${name} did not start${said ? `: ${said}` : '.'}`, {
      hint: 'Its state stays as it is. See the message of swtpm.',
    });
  }
  return identity;
}

/** The process of the TPM of a guest that runs; undefined: it was started without one. */
export async function findTpm(mark: string, qemuArguments: readonly string[]): Promise<TpmProcess | undefined> {
  if (!qemuArguments.includes('-tpmdev')) return undefined;
  const found = await findProcesses({ environmentVariable: markVariable });
  return found.find((process) => process.mark === mark)?.identity ?? null;
}

/** The key that the state is encrypted with; a first start makes state folder and key. */
async function provideState(
  folder: VmFolder,
  { name, uid, pinned }: Pick<GuestDefinition, 'name' | 'uid' | 'pinned'>,
): Promise<string> {
  const fresh = `${folder.tpmKey}.new`;
  const [hasKey, hasFresh, hasState] = await Promise.all([
    hasFile(folder.tpmKey),
    hasFile(fresh),
    hasFile(`${folder.tpmState}/${tpmStateFile}`),
  ]);
  const lost = (what: string): LodgeError =>
    new LodgeError('wrong_state', `${what} of the TPM of VM ${name} is missing.`, {
      hint: `Put it back from a copy (${folder.tpmState}, ${folder.tpmKey}), or make a new TPM, with which everything sealed in the old one is lost (disk encryption asks for its recovery key): lodge vm firmware reset ${name} --tpm.`,
    });
  if (hasKey && !hasState) throw lost('The state');
  if (hasKey) return folder.tpmKey;
  const hadTpm = pinned?.arguments.some((argument) => argument.startsWith('tpm-')) ?? false;
  if (!hasFresh && (hadTpm || hasState)) throw lost('The key');
  if (!hasFresh) await writeFile(fresh, randomBytes(keyBytes), { mode: 0o600 });
  await mkdir(folder.tpmState, { recursive: true, mode: 0o700 });
  await chown(folder.tpmState, uid, uid);
  return fresh;
}

/** The guest runs: a TPM that was only begun is the VM's for good. */
export async function keepTpm(folder: VmFolder): Promise<void> {
  const fresh = `${folder.tpmKey}.new`;
  if (!(await hasFile(fresh)) || !(await hasFile(`${folder.tpmState}/${tpmStateFile}`))) return;
  await rename(fresh, folder.tpmKey);
}

/** The next start makes a new TPM. */
export async function resetTpm(
  folder: VmFolder,
  { name, spec }: Pick<GuestDefinition, 'name' | 'spec'>,
): Promise<void> {
  if (!spec.tpm?.isEnabled)
    throw new LodgeError('unsupported', `VM ${name} has no TPM.`, { hint: 'Set tpm.isEnabled to give it one.' });
  const fresh = `${folder.tpmKey}.new`;
  await rm(fresh, { force: true });
  await writeFile(fresh, randomBytes(keyBytes), { mode: 0o600 });
  await rm(folder.tpmKey, { force: true });
  await rm(folder.tpmState, { recursive: true, force: true });
}

/** Ends the process of a TPM, where there is one. */
export async function endTpm(mark: string): Promise<void> {
  const found = await findProcesses({ environmentVariable: markVariable });
  for (const process of found)
    if (process.mark === mark) await terminateProcess(process.identity, { termTimeoutMs: endMs });
}

/** Whether a VM has, or had, a TPM: then its process is looked for. */
export async function mayHaveTpm(folder: VmFolder): Promise<boolean> {
  return lstat(folder.tpmState).then(
    () => true,
    () => false,
  );
}

/** What QEMU says when swtpm could not read the state: with another key, or damaged. */
export function tpmFailure(name: string, folder: VmFolder, words: string | null): LodgeError | null {
  if (!words || !/tpm-emulator: TPM result for CMD_INIT/.test(words)) return null;
  return new LodgeError(
    'wrong_state',
    `The state of the TPM of VM ${name} can’t be read: it is damaged, or has another key.`,
    {
      hint: `Put it back from a copy (${folder.tpmState}, ${folder.tpmKey}), or make a new TPM, with which everything sealed in the old one is lost: lodge vm firmware reset ${name} --tpm.`,
    },
  );
}
