// virtiofsd for tests. Debian has it from 13 on; where it isn't installed, it is taken from Debian 13's packages with the
// libraries that it was built for, kept in the clone's .lodge folder, and nothing is installed.
import { randomUUID } from 'node:crypto';
import { access, chmod, cp, mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/host/command.ts';
import { readDebianMirrors } from '../../src/host/image/apt-mirrors.ts';
import { temporaryFolder, type Cleanup } from './temporary.ts';

const cache = join(import.meta.dirname, '../../.lodge/test');
const packages = ['virtiofsd', 'libc6', 'libcap-ng0', 'libseccomp2', 'libgcc-s1'];
const libraries = 'usr/lib/x86_64-linux-gnu';
const aptMs = 300_000;

/** A virtiofsd that any user of this machine can run. */
export async function virtiofsdProgram(test: Cleanup): Promise<string> {
  const installed = '/usr/libexec/virtiofsd';
  if (await isThere(installed)) return installed;
  const kept = join(cache, 'virtiofsd');
  if (!(await isThere(kept))) await fetchProgram(kept);
  // The clone may lie where only root gets; guests' processes have other users.
  const folder = join(await temporaryFolder(test), 'virtiofsd');
  await cp(kept, folder, { recursive: true });
  const program = join(folder, 'start');
  const loader = join(folder, 'ld-linux-x86-64.so.2');
  await writeFile(program, `#!/bin/sh\nexec ${loader} --library-path ${folder} ${folder}/virtiofsd "$@"\n`);
  for (const name of [folder, program, loader, join(folder, 'virtiofsd')]) await chmod(name, 0o755);
  return program;
}

async function fetchProgram(folder: string): Promise<void> {
  const work = `${folder}-${randomUUID()}`;
  const [lists, archives, root, flat] = ['lists/partial', 'archives/partial', 'root', 'flat'].map((name) =>
    join(work, name),
  );
  try {
    for (const path of [lists!, archives!, root!, flat!]) await mkdir(path, { recursive: true });
    const { archive, keyring, aptOptions } = await readDebianMirrors();
    const signedBy = keyring === null ? '' : `[signed-by=${keyring}] `;
    await writeFile(join(work, 'sources.list'), `deb ${signedBy}${archive} trixie main\n`);
    const options = [
      `Dir::Etc::SourceList=${work}/sources.list`,
      'Dir::Etc::SourceParts=/dev/null',
      `Dir::State::Lists=${work}/lists`,
      'Dir::State::status=/dev/null',
      `Dir::Cache=${work}`,
      'APT::Sandbox::User=root',
      'Acquire::Retries=3',
      ...aptOptions.map((option) => option.replace(/ "(.*)"$/, '=$1')),
    ].flatMap((option) => ['-o', option]);
    await run(['apt-get', ...options, 'update', '-qq'], { timeoutMs: aptMs });
    await run(['apt-get', ...options, 'download', '-qq', ...packages], { timeoutMs: aptMs, cwd: work });
    for (const file of await readdir(work))
      if (file.endsWith('.deb')) await run(['dpkg-deb', '--extract', join(work, file), root!]);
    await cp(join(root!, libraries), flat!, { recursive: true, dereference: true });
    await cp(join(root!, 'usr/libexec/virtiofsd'), join(flat!, 'virtiofsd'));
    // Another test may have been as quick.
    await rename(flat!, folder).catch(async (error: unknown) => {
      if (!(await isThere(folder))) throw error;
    });
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
