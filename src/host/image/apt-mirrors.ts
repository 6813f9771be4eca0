// Where this machine gets Debian packages from, so that an image for any Debian release is built from the same mirror:
// read from apt itself, which knows all its source formats. Without a Debian mirror in apt's configuration (Ubuntu, an
// empty container) Debian's public one is taken.
import { access } from 'node:fs/promises';
import { run } from '../command.ts';

export const PUBLIC_ARCHIVE = 'http://deb.debian.org/debian';
export const PUBLIC_SECURITY_ARCHIVE = 'http://deb.debian.org/debian-security';

/** Debian's keys, of all releases that are supported. */
export const DEBIAN_KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg';

export interface DebianMirrors {
  archive: string;
  security: string;
  /** Null where the machine has no keys of Debian. */
  keyring: string | null;
  /** apt options that the way to the mirror needs (proxy, retries), as `Key "value"`. */
  aptOptions: string[];
}

/** Reads this machine's mirrors. Never fails for a machine without apt; then they are the public ones. */
export async function readDebianMirrors(signal?: AbortSignal): Promise<DebianMirrors> {
  const format = '$(ORIGIN)|$(LABEL)|$(REPO_URI)|$(COMPONENT)';
  const quiet = async (argv: [string, ...string[]]): Promise<string> =>
    run(argv, { signal }).then(
      (result) => result.stdout,
      () => '',
    );
  const targets = parseTargets(await quiet(['apt-get', 'indextargets', '--format', format, 'Identifier: Packages']));
  const keyring = await access(DEBIAN_KEYRING).then(
    () => DEBIAN_KEYRING,
    () => null,
  );
  return { ...targets, keyring, aptOptions: parseAptOptions(await quiet(['apt-config', 'dump'])) };
}

/** Picks Debian's archives among apt's index targets, lines of `origin|label|uri|component`. */
export function parseTargets(output: string): { archive: string; security: string } {
  const targets = output.split('\n').map((line) => line.split('|'));
  const find = (label: string): string | undefined =>
    targets
      .find((target) => target[0] === 'Debian' && target[1] === label && target[3] === 'main')?.[2]
      ?.replace(/\/+$/, '');
  return { archive: find('Debian') ?? PUBLIC_ARCHIVE, security: find('Debian-Security') ?? PUBLIC_SECURITY_ARCHIVE };
}

const PASSED_ON =
  /^Acquire::(?:Retries|ForceIPv[46]|Check-Valid-Until|Check-Date|https?(?:::[\w.-]+)*::(?:Proxy|Timeout)|https?::[\w.-]+::Proxy)$/i;

/** The options of `apt-config dump` that decide whether the mirror can be reached. */
export function parseAptOptions(dump: string): string[] {
  return dump
    .split('\n')
    .map((line) => /^([\w:.-]+) "([^"\\]*)";$/.exec(line))
    .filter((match) => match !== null && PASSED_ON.test(match[1]!) && match[2] !== '')
    .map((match) => `${match![1]} "${match![2]}"`);
}
