// The disk by which a guest's cloud-init learns who it is: an ISO 9660 volume named "cidata" (NoCloud). The same
// content gives the same bytes, so that an unchanged seed can be told from a changed one.
import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, open, readdir, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { CommandError, run } from '../command.ts';
import { makeDurable } from './durable.ts';
import { ImageProblemError } from './problem.ts';
import { explainWrite } from './sparse-file.ts';

/** Files of a NoCloud seed, each with the text it is to hold (https://docs.cloudinit.io/en/latest/reference/datasources/nocloud.html). */
export interface SeedContent {
  metaData: string;
  userData: string;
  networkConfig?: string;
  vendorData?: string;
}

/** 1980-01-01, the earliest time every file system here can write. */
const FIXED_TIME_SECONDS = 315_532_800;

/** Writes the seed, in place of what is at `outPath`. It holds secrets: only the owner can read it. */
export async function buildSeed(content: SeedContent, outPath: string, signal?: AbortSignal): Promise<void> {
  const target = resolve(outPath);
  const temporary = `${target}.new-${randomUUID()}`;
  // Beside its target, where whoever cleans up after a crash looks: it holds the same secrets.
  const work = await mkdtemp(`${target}.work-`);
  try {
    const folder = join(work, 'cidata');
    await mkdir(folder);
    const files = {
      'meta-data': content.metaData,
      'user-data': content.userData,
      'network-config': content.networkConfig,
      'vendor-data': content.vendorData,
    };
    for (const [name, text] of Object.entries(files))
      if (text !== undefined) await writeFile(join(folder, name), text, { mode: 0o600 });
    for (const path of [...(await readdir(folder)).map((name) => join(folder, name)), folder]) {
      await utimes(path, FIXED_TIME_SECONDS, FIXED_TIME_SECONDS);
    }
    // Made first, so that its mode is right before there is anything to read.
    const file = await open(temporary, 'wx', 0o600);
    await file.close();
    await run(
      [
        'xorriso',
        '-no_rc',
        '-report_about',
        'SORRY',
        '-as',
        'mkisofs',
        '-volid',
        'cidata',
        '-joliet',
        '-rational-rock',
        '-output',
        temporary,
        folder,
      ],
      { timeoutMs: 30_000, signal, env: { SOURCE_DATE_EPOCH: String(FIXED_TIME_SECONDS), TZ: 'UTC' } },
    );
    await makeDurable(temporary);
    await rename(temporary, target);
  } catch (error) {
    if (error instanceof CommandError && error.reason === 'missing') {
      throw new ImageProblemError('missing-program', 'xorriso is not installed; it writes the disk cloud-init reads.', {
        cause: error,
      });
    }
    if (error instanceof CommandError && /No space left/.test(error.stderr)) {
      throw new ImageProblemError('no-space', `There is no space left for ${target}.`, { cause: error });
    }
    throw explainWrite(error, target);
  } finally {
    await rm(work, { recursive: true, force: true });
    await rm(temporary, { force: true });
  }
}

/** Hashes a password as crypt(5) does with SHA-512 ($6$), with a new salt. The password never stands in an argument list. */
export async function hashPassword(password: string): Promise<string> {
  if (password === '' || /[\0\n\r]/.test(password) || Buffer.byteLength(password) > 255) {
    throw new ImageProblemError('invalid', 'A password has 1 to 255 bytes and no line breaks.');
  }
  try {
    const { stdout } = await run(['openssl', 'passwd', '-6', '-stdin'], { input: `${password}\n`, timeoutMs: 10_000 });
    return stdout.trim();
  } catch (error) {
    if (error instanceof CommandError && error.reason === 'missing') {
      throw new ImageProblemError('missing-program', 'openssl is not installed; it hashes passwords.', {
        cause: error,
      });
    }
    throw error;
  }
}
