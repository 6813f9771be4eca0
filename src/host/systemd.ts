// Tells systemd how far the daemon is, where systemd started it with Type=notify: sd_notify(3). Node has no unix
// datagram sockets, so the program systemd-notify sends the message; the unit needs NotifyAccess=all for that.
import { CommandError, run } from './command.ts';

export type ServiceState = 'ready' | 'stopping';

const messages: Readonly<Record<ServiceState, string>> = { ready: 'READY=1', stopping: 'STOPPING=1' };

/**
 * Sends the state and a line for `systemctl status`. Does nothing when systemd didn't ask for it (no NOTIFY_SOCKET).
 * Tells whether systemd was told; a failure is no error, because the service runs all the same.
 */
export async function notifySystemd(
  state: ServiceState,
  status: string,
  environment: NodeJS.ProcessEnv = process.env,
): Promise<boolean> {
  const socket = environment['NOTIFY_SOCKET'] ?? '';
  if (socket === '') return false;
  const line = status.replace(/[\r\n]+/g, ' ').slice(0, 200);
  try {
    await run(['systemd-notify', messages[state], `STATUS=${line}`], {
      timeoutMs: 5_000,
      env: { NOTIFY_SOCKET: socket },
    });
    return true;
  } catch (failure) {
    if (failure instanceof CommandError) return false;
    throw failure;
  }
}
