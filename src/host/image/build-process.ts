// The process in which an image is built. Its programs run for minutes and start many others: none of them, and no mount
// they make, may outlive whoever asked for the build, also when that was killed.

/**
 * The command in mount and process namespaces of its own. The kernel ends all of it with the caller: setpriv asks for
 * that (prctl(2), PR_SET_PDEATHSIG), unshare hands it on (unshare(1), --kill-child), and with the first process of a
 * process namespace everything in it ends (pid_namespaces(7)), its mounts with it.
 */
export function asBuildProcess(argv: readonly [string, ...string[]]): [string, ...string[]] {
  const namespaces = ['--mount', '--propagation=private', '--pid', '--fork', '--kill-child=KILL', '--mount-proc'];
  return ['setpriv', '--pdeathsig=KILL', 'unshare', ...namespaces, ...argv];
}
