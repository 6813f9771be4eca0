// The daemon's process: reads the configuration, names the concrete driver (only here), starts, and stops when asked to.
// Guests run on when it ends.
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { pino } from 'pino';
import { LodgeError } from '../api/errors.ts';
import { type Driver } from '../drivers/driver.ts';
import { FakeDriver } from '../drivers/fake/fake-driver.ts';
import { QemuDriver } from '../drivers/qemu/qemu-driver.ts';
import { notifySystemd } from '../host/systemd.ts';
import { loadConfig, type Config } from './config.ts';
import { startDaemon, type Daemon } from './start-daemon.ts';

function makeDriver(config: Config): Driver {
  if (config.driver === 'fake') return new FakeDriver({ directory: join(config.dataDir, 'fake-guests') });
  return new QemuDriver({
    instance: config.instance,
    ...(config.qemu.binary ? { binary: config.qemu.binary } : {}),
    ...(config.qemu.virtiofsd ? { virtiofsd: config.qemu.virtiofsd } : {}),
    accelerator: config.qemu.accelerator,
    cacheDirectory: join(config.dataDir, 'probe'),
  });
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: 'string' } } });
  const config = await loadConfig(values.config, process.env);
  const log = pino({ level: config.logLevel });
  process.umask(0o022);
  let daemon: Daemon | null = null;
  let isStopping = false;
  const stop = async (signal: string): Promise<void> => {
    if (isStopping) return;
    isStopping = true;
    log.info({ signal }, 'stopping; guests run on');
    await notifySystemd('stopping', 'Stopping; guests run on.');
    await daemon?.stop();
    log.info('stopped');
    process.exit(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal));
  process.on('unhandledRejection', (error) => log.error({ err: error }, 'an error was not handled'));
  daemon = await startDaemon(config, makeDriver(config), log);
  await notifySystemd('ready', 'Lodge answers requests.');
}

await main().catch((error: unknown) => {
  const shown =
    error instanceof LodgeError
      ? `${error.message}\n${error.hint}\n`
      : `${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`;
  process.stderr.write(`lodge: ${shown}`);
  process.exit(1);
});
