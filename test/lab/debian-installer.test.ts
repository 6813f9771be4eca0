// Debian, installed by its own installer onto an empty disk, unattended, and booted from that disk: what `lodge vm create
// --iso` is for. Slow: most of an hour without hardware virtualization, so it is not part of `npm test`. Needs root, and
// apt with a Debian mirror.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { readDebianMirrors } from '../../src/host/image/apt-mirrors.ts';
import { fetchInstaller, makeInstallerIso, preseed } from '../support/debian-installer.ts';
import { installerSuite, openInstallerArchive } from '../support/installer-archive.ts';
import { serveInstallerMirror } from '../support/installer-mirror.ts';
import { qemuDaemon } from '../support/qemu-daemon.ts';
import { temporaryFolder } from '../support/temporary.ts';
import { eventually } from '../support/wait.ts';

const query = { project: 'default' } as const;
const params = { vm: 'web1' };
const hostname = 'installed';
const installMs = 3 * 3_600_000;
const bootMs = 900_000;

test(
  'Debian is installed from an ISO, unattended, and boots from its disk',
  { timeout: installMs },
  async (context) => {
    const folder = await temporaryFolder(context);
    const mirrors = await readDebianMirrors();
    const archive = await openInstallerArchive(mirrors, folder);
    const installer = await fetchInstaller(archive, folder);
    const host = await qemuDaemon(context, { images: [] });
    const { client } = host;
    const mirror = await serveInstallerMirror(context, host.namespace, {
      url: mirrors.archive,
      suite: installerSuite,
      archive,
      installed: installer.installed,
    });
    context.diagnostic(
      `the mirror lacks ${mirror.missing.join(' ')}; the installer goes without ${mirror.leftOut.join(' ')}`,
    );
    const { status: network } = await client.network.get({ params: { network: 'user' } });
    // QEMU's own network has the loopback of the namespace at its router's address.
    const answers = preseed({ mirror: `${network.gateway ?? '10.0.2.2'}:${mirror.port}`, hostname });
    const media = join(host.daemon.folder, 'media');
    await mkdir(media, { mode: 0o755 });
    const iso = join(media, 'installer.iso');
    await makeInstallerIso(iso, folder, installer, answers);
    const source = { type: 'file', path: iso } as const;
    await host.done(client.image.create({ body: { name: 'installer', spec: { source } } }));

    const startedAt = performance.now();
    await host.create('web1', {
      image: undefined,
      os: 'linux',
      cpu: { count: 2 },
      memoryMib: 1024,
      firmware: { type: 'bios' },
      nics: [{ network: 'user' }],
      disks: [
        { name: 'root', sizeMib: 8192, cache: 'unsafe' },
        { name: 'cdrom', device: 'cdrom', image: 'installer' },
      ],
    });
    const untilLogin = async (times: number, timeoutMs: number): Promise<void> => {
      let shown = '';
      const log = async (): Promise<string> =>
        (await client.vm.serialLog({ params, query: { ...query, bytes: 4 * 2 ** 20 } })).text();
      try {
        await eventually(
          async () => {
            shown = await log();
            return shown.split(`${hostname} login:`).length > times;
          },
          { timeoutMs, intervalMs: 5000, describe: `the installed system asks who signs in, for the ${times}. time` },
        );
      } catch (error) {
        context.diagnostic(`the mirror was asked for: ${mirror.answered.slice(-20).join('\n')}`);
        context.diagnostic(`the console ended with: ${shown.slice(-2000)}`);
        throw error;
      }
    };
    await untilLogin(1, installMs);
    context.diagnostic(`installed and booted after ${Math.round((performance.now() - startedAt) / 1000)} s`);
    assert.match(await host.console('web1'), /login:/);

    // Without its medium, and after a shutdown that it is asked for.
    await host.change('web1', (spec) => ({
      ...spec,
      disks: spec.disks.map((disk) => (disk.name === 'cdrom' ? { ...disk, image: undefined } : disk)),
    }));
    const restarted = await client.vm.restart({ params, query, body: { timeoutS: 300 } });
    await host.until('web1', 'runs again', (vm) => vm.status.state === 'running' && vm.status.taskId === null, bootMs);
    const { steps } = await client.task.get({ params: { task: restarted.id } });
    assert.ok(steps.every(({ state }) => state === 'done'));
    await untilLogin(2, bootMs);
  },
);
