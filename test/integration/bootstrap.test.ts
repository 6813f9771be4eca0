// tools/bootstrap.sh: what it would install on which distribution, from where, and how it behaves when something is
// in the way. The programs it asks (apt-get, sudo, npm) are stand-ins that record how they were called.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { copyFile, mkdir, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const tools = join(import.meta.dirname, '../../tools');

const DEBIAN_12 =
  'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n';
const DEBIAN_13 = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\nVERSION_CODENAME=trixie\n';

interface Machine {
  root: string;
  folder: string;
  /** Replaces a program by a shell script. */
  replace: (name: string, script: string) => Promise<void>;
  /** Runs the bootstrap to its end. */
  run: (options?: {
    args?: string[];
    env?: Record<string, string>;
  }) => Promise<{ code: number | null; output: string }>;
  start: (env?: Record<string, string>) => {
    child: ReturnType<typeof spawn>;
    ended: Promise<{ code: number | null; output: string }>;
  };
}

/** A machine with this os-release that has the usual programs of a minimal system, and a clone with nothing installed. */
async function machine(t: TestContext, osRelease: string): Promise<Machine> {
  const folder = await temporaryFolder(t, 0o755);
  const root = join(folder, 'clone');
  const bin = join(folder, 'bin');
  await mkdir(join(root, 'tools'), { recursive: true });
  await mkdir(bin);
  for (const name of ['bootstrap.sh', 'packages.txt']) await copyFile(join(tools, name), join(root, 'tools', name));
  await writeFile(join(folder, 'os-release'), osRelease);
  const programs =
    'sh sed awk tr tail grep cut date sleep cat mkdir touch chmod mv dirname id env flock setsid uname printf';
  for (const name of programs.split(' ')) {
    await symlink(join('/usr/bin', name), join(bin, name));
  }
  await symlink(process.execPath, join(bin, 'node'));
  const replace: Machine['replace'] = async (name, script) => {
    const path = join(bin, name);
    // The name may be a link to the machine's own program, which writing through it would destroy.
    await rm(path, { force: true });
    await writeFile(path, `#!/bin/sh\n${script}\n`, { mode: 0o755, flag: 'wx' });
  };
  await replace('npm', 'exit 1');
  const start: Machine['start'] = (env = {}) => {
    const child = spawn('/bin/sh', [join(root, 'tools/bootstrap.sh'), 'start', 'one', 'two words'], {
      env: { PATH: bin, HOME: folder, LODGE_BOOTSTRAP_OS_RELEASE: join(folder, 'os-release'), ...marks(), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (chunk: string) => (output += chunk));
    }
    const { promise: ended, resolve } = Promise.withResolvers<{ code: number | null; output: string }>();
    child.once('close', (code) => resolve({ code, output }));
    return { child, ended };
  };
  return { root, folder, replace, start, run: ({ env } = {}) => start(env).ended };
}

function marks(): Record<string, string> {
  const mark = process.env['LODGE_TEST'];
  return mark === undefined ? {} : { LODGE_TEST: mark };
}

const DRY_RUN = { LODGE_BOOTSTRAP_DRY_RUN: '1' };

/** A stand-in for apt-get that knows these index targets. */
function aptWith(targets: string): string {
  return `case "$1" in indextargets) cat <<'END'\n${targets}\nEND\n;; esac`;
}

/** Lets the machine lack programs whatever the real one has: Lodge's list then names only files that are nowhere. */
async function lackEverything(m: Machine): Promise<void> {
  const path = join(m.root, 'tools/packages.txt');
  const lines = (await readFile(path, 'utf8')).split('\n').map((line) => {
    if (line.startsWith('#') || line === '') return line;
    return line.replace(/^(\S+\s+\S+\s+)\S+/, '$1/nowhere');
  });
  await writeFile(path, lines.join('\n'));
}

test('on Debian 12 it takes QEMU from backports of the mirror and with the key that the machine uses', async (t) => {
  const m = await machine(t, DEBIAN_12);
  await lackEverything(m);
  const sources = join(m.folder, 'debian.sources');
  await writeFile(
    sources,
    `# a comment first

Types: deb
URIs: http://security.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /keys/security.gpg

# another
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
signed-by: /keys/debian.gpg
`,
  );
  await m.replace(
    'apt-get',
    aptWith(
      `http://security.example/debian-security/ bookworm-security main Packages ${sources}:1\n` +
        `http://mirror.example/debian/ bookworm main Translations ${sources}:2\n` +
        `http://mirror.example/debian/ bookworm main Packages ${sources}:2`,
    ),
  );
  const { code, output } = await m.run({ env: DRY_RUN });
  assert.equal(code, 0, output);
  assert.match(output, /qemu-system-x86 +runs the virtual machines/);
  assert.match(output, /would write: URIs: http:\/\/mirror\.example\/debian\//);
  assert.match(output, /would write: Suites: bookworm-backports/);
  assert.match(output, /would write: signed-by: \/keys\/debian\.gpg/);
  assert.match(
    output,
    /would run: apt-get .* install -t bookworm-backports qemu-system-x86 qemu-utils python3-virt-firmware\n/,
  );
  assert.match(output, /would run: apt-get .* install ovmf swtpm dnsmasq-base /);
  assert.doesNotMatch(output, /virtiofsd/, 'Debian 12 does not have it');
  assert.doesNotMatch(output, /chromium/);
});

test('a source in the one-line format gives its key as well', async (t) => {
  const m = await machine(t, DEBIAN_12);
  await lackEverything(m);
  const list = join(m.folder, 'sources.list');
  await writeFile(
    list,
    '# Debian\n\ndeb [arch=amd64 signed-by=/keys/a.gpg] http://mirror.example/debian bookworm main\n',
  );
  await m.replace('apt-get', aptWith(`http://mirror.example/debian/ bookworm main Packages ${list}:3`));
  const { output } = await m.run({ env: DRY_RUN });
  assert.match(output, /would write: Signed-By: \/keys\/a\.gpg\n/);
});

test('a key that stands in the source itself is taken over whole, and nothing after it', async (t) => {
  const m = await machine(t, DEBIAN_12);
  await lackEverything(m);
  const sources = join(m.folder, 'debian.sources');
  const key = ' -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----\n';
  await writeFile(
    sources,
    `Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nSigned-By:\n${key}Components: main\n\nTypes: deb-src\nSigned-By: /other.gpg\n`,
  );
  await m.replace('apt-get', aptWith(`http://mirror.example/debian/ bookworm main Packages ${sources}:1`));
  const { output } = await m.run({ env: DRY_RUN });
  const written = [...output.matchAll(/would write: (.*)/g)].map(([, line]) => line);
  assert.deepEqual(written.slice(-5), ['Signed-By:', ...key.trimEnd().split('\n')]);
});

test('backports that are configured already are used as they are', async (t) => {
  const m = await machine(t, DEBIAN_12);
  await lackEverything(m);
  await m.replace(
    'apt-get',
    aptWith('http://mirror.example/debian/ bookworm-backports main Packages /etc/x.sources:1'),
  );
  const { output } = await m.run({ env: DRY_RUN });
  assert.doesNotMatch(output, /would write/);
  assert.match(output, /install -t bookworm-backports qemu-system-x86/);
});

test('without any source for Debian itself it stops and says so', async (t) => {
  const m = await machine(t, DEBIAN_12);
  await lackEverything(m);
  await m.replace('apt-get', aptWith(''));
  const { code, output } = await m.run({ env: DRY_RUN });
  assert.equal(code, 1);
  assert.match(output, /apt has no source for Debian's bookworm/);
});

test('on Debian 13 everything comes from the release itself', async (t) => {
  const m = await machine(t, DEBIAN_13);
  await lackEverything(m);
  await m.replace('apt-get', 'exit 0');
  const { code, output } = await m.run({ env: DRY_RUN });
  assert.equal(code, 0, output);
  assert.doesNotMatch(output, /backports/);
  assert.match(output, /install qemu-system-x86 qemu-utils python3-virt-firmware ovmf /);
  assert.match(output, / swtpm virtiofsd dnsmasq-base /);
});

test('a QEMU that is too old is replaced, and the version is named', async (t) => {
  const m = await machine(t, DEBIAN_12);
  await m.replace('qemu-system-x86_64', 'echo "QEMU emulator version 7.2.15 (Debian 1:7.2)"');
  await m.replace(
    'apt-get',
    aptWith('http://mirror.example/debian/ bookworm-backports main Packages /etc/x.sources:1'),
  );
  const { output } = await m.run({ env: DRY_RUN });
  assert.match(output, /version 7\.2 is installed; Lodge needs 8\.2/);
});

for (const [system, osRelease, expected, unexpected] of [
  [
    'Ubuntu',
    'PRETTY_NAME="Ubuntu 24.04"\nID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n',
    /sudo apt-get install .*qemu-system-x86 qemu-utils/,
    /bookworm/,
  ],
  [
    'Fedora',
    'PRETTY_NAME="Fedora 42"\nID=fedora\nVERSION_ID=42\n',
    /sudo dnf install .*qemu-img edk2-ovmf/,
    /qemu-utils/,
  ],
  ['Rocky Linux', 'PRETTY_NAME="Rocky 9"\nID="rocky"\nID_LIKE="rhel centos fedora"\n', /sudo dnf install/, /apt-get/],
  [
    'Arch Linux',
    'PRETTY_NAME="Arch Linux"\nID=arch\n',
    /sudo pacman -S --needed .*nftables .*libisoburn/,
    /pacman .*mmdebstrap/,
  ],
  [
    'openSUSE',
    'PRETTY_NAME="openSUSE"\nID="opensuse-leap"\nID_LIKE="suse opensuse"\n',
    /sudo zypper install .*qemu-tools/,
    /qemu-utils/,
  ],
  ['Alpine', 'PRETTY_NAME="Alpine"\nID=alpine\n', /sudo apk add .*qemu-img/, /qemu-utils/],
  ['an unknown one', 'PRETTY_NAME="Own Linux"\nID=own\n', /your package manager/, /sudo/],
] as const) {
  test(`on ${system} it names the packages and installs nothing`, async (t) => {
    const m = await machine(t, osRelease);
    await lackEverything(m);
    await m.replace('apt-get', `touch ${m.folder}/called`);
    const { code, output } = await m.run();
    assert.equal(code, 1, output);
    assert.match(output, expected);
    assert.doesNotMatch(output, unexpected);
    assert.ok(!(await readdir(m.folder)).includes('called'));
  });
}

test('an old Debian is refused with the versions that are supported', async (t) => {
  const m = await machine(t, 'PRETTY_NAME="Debian 11"\nID=debian\nVERSION_ID="11"\nVERSION_CODENAME=bullseye\n');
  const { code, output } = await m.run();
  assert.equal(code, 1);
  assert.match(output, /Debian 11 is too old\.\n.*Debian 12 and 13/);
});

test('without root and without sudo it says why it needs root', async (t) => {
  const m = await machine(t, DEBIAN_12);
  await m.replace('id', 'case "$1" in -u) echo 1000;; *) echo someone;; esac');
  const { code, output } = await m.run();
  assert.equal(code, 1);
  assert.match(output, /needs root/);
  assert.match(output, /You are someone, and sudo is not installed: become root/);
});

test('with a sudo that asks for a password and no terminal to ask at, it stops instead of hanging', async (t) => {
  const m = await machine(t, DEBIAN_12);
  await m.replace('id', 'case "$1" in -u) echo 1000;; *) echo someone;; esac');
  await m.replace('sudo', 'exit 1');
  const { code, output } = await m.run();
  assert.equal(code, 1);
  assert.match(output, /there is no terminal to ask at/);
});

/** A clone whose npm packages can be "installed": by a stand-in for npm that takes `seconds` and notes its calls. */
async function withNpm(m: Machine, seconds: string, exitCode = 0): Promise<void> {
  await writeFile(join(m.root, 'tools/packages.txt'), '');
  await writeFile(
    join(m.root, 'tools/start.ts'),
    `console.log('handed over', JSON.stringify(process.argv.slice(2)));\n`,
  );
  await writeFile(
    join(m.root, 'package-lock.json'),
    JSON.stringify({ packages: { '': {}, 'node_modules/a': { version: '1.0.0' } } }),
  );
  await symlink('/usr/bin/ln', join(m.folder, 'bin/ln'));
  await m.replace(
    'npm',
    `echo begin >>${m.folder}/calls; sleep ${seconds}
mkdir -p ${m.root}/node_modules/.bin && ln -sf ${process.execPath} ${m.root}/node_modules/.bin/node
cat ${m.root}/package-lock.json >${m.root}/node_modules/.package-lock.json
echo "the registry said something"
echo end >>${m.folder}/calls; exit ${exitCode}`,
  );
}

test('it installs the npm packages once, and hands its arguments over to Node 24', async (t) => {
  const m = await machine(t, DEBIAN_12);
  await withNpm(m, '0');
  const first = await m.run();
  assert.equal(first.code, 0, first.output);
  assert.match(first.output, /handed over \["one","two words"\]/);
  const second = await m.run();
  assert.match(second.output, /^handed over/);
  assert.equal(await readFile(join(m.folder, 'calls'), 'utf8'), 'begin\nend\n');
  // Another version in the lockfile makes what is installed stale.
  await writeFile(
    join(m.root, 'package-lock.json'),
    JSON.stringify({ packages: { 'node_modules/a': { version: '1.0.1' } } }),
  );
  await m.run();
  assert.equal(await readFile(join(m.folder, 'calls'), 'utf8'), 'begin\nend\nbegin\nend\n');
});

test('two runs at once wait for each other, and the second installs nothing', async (t) => {
  const m = await machine(t, DEBIAN_12);
  await withNpm(m, '0.5');
  const runs = await Promise.all([m.run(), m.run()]);
  for (const { code, output } of runs) {
    assert.equal(code, 0, output);
    assert.match(output, /handed over/);
  }
  assert.equal(await readFile(join(m.folder, 'calls'), 'utf8'), 'begin\nend\n');
});

test('when npm fails, the end of its log is shown with what to do', async (t) => {
  const m = await machine(t, DEBIAN_12);
  await withNpm(m, '0', 1);
  const { code, output } = await m.run();
  assert.equal(code, 1);
  assert.match(output, /\| the registry said something/);
  assert.match(output, /npm could not install the packages\.\n.*check the network, the proxy/);
  assert.doesNotMatch(output, /handed over/);
});

test('stopping it ends what it started, and the exit code tells', async (t) => {
  const m = await machine(t, DEBIAN_12);
  await withNpm(m, '600');
  const { child, ended } = m.start();
  await eventually(async () => (await readFile(join(m.folder, 'calls'), 'utf8')) === 'begin\n', {
    describe: 'npm was called',
  });
  child.kill('SIGTERM');
  const { code, output } = await ended;
  assert.equal(code, 130, output);
  assert.match(output, /Run the same command again to go on/);
});
