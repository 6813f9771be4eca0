// What is mounted where. Source: proc(5), /proc/pid/mountinfo.

/** One mount, as a line of mountinfo tells it. */
export interface Mount {
  /** The folder of the file system that is seen at the mount point. */
  readonly root: string;
  readonly mountPoint: string;
  /** Type of the file system: `ext4`, `cgroup2`. */
  readonly type: string;
  /** Options of the file system itself, for all its mounts. */
  readonly superOptions: readonly string[];
}

/** Undoes the octal escapes that the kernel writes for space, tab, newline and backslash. */
function unescapePath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** The mounts in the text of /proc/PID/mountinfo, in its order; lines that are none are left out. */
export function parseMountInfo(mountinfo: string): Mount[] {
  return mountinfo.split('\n').flatMap((line) => {
    // 36 35 98:0 /root /mount/point options tags - type source options
    const separator = line.indexOf(' - ');
    if (separator < 0) return [];
    const [, , , root, mountPoint] = line.slice(0, separator).split(' ').map(unescapePath);
    const [type, , superOptions] = line.slice(separator + 3).split(' ');
    if (root === undefined || mountPoint === undefined || !type) return [];
    return [{ root, mountPoint, type, superOptions: (superOptions ?? '').split(',') }];
  });
}

/**
 * The type of the file system that holds a path; null where no mount does. `mountinfo` is the text of
 * /proc/self/mountinfo; the path is absolute and without symbolic links.
 */
export function fileSystemOf(mountinfo: string, path: string): string | null {
  let best: Mount | null = null;
  for (const mount of parseMountInfo(mountinfo)) {
    const { mountPoint } = mount;
    const isAbove = path === mountPoint || path.startsWith(mountPoint === '/' ? '/' : `${mountPoint}/`);
    // The later of two on the same point covers the earlier.
    if (isAbove && (!best || mountPoint.length >= best.mountPoint.length)) best = mount;
  }
  return best?.type ?? null;
}
