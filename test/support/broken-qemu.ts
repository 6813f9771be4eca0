// A QEMU that dies, or refuses, in a chosen moment of a guest's start. For everything else (its version, what it can do, the
// probe guest) it is the real one. It is a shell script that hands over to Perl, since the guest's unprivileged user must
// be able to run it.
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * `exits`: ends at once, with a word. `killed`: by a signal, without a word. `no-greeting`: takes the monitor's connection
 * and ends. `after-greeting`: greets and ends. `negotiated`: ends after the negotiation. `on-cont`: ends when the guest is
 * to run. `refuses-cont`: answers that with an error. `hangs`: never listens.
 */
export type Breakage =
  | 'exits'
  | 'killed'
  | 'no-greeting'
  | 'after-greeting'
  | 'negotiated'
  | 'on-cont'
  | 'refuses-cont'
  | 'hangs';

const monitor = String.raw`
use strict; use warnings; use Socket;
my ($mode) = @ARGV;
if ($mode eq 'exits') { print STDERR "qemu-system-x86_64: it was told to end\n"; exit 3 }
if ($mode eq 'killed') { kill 'KILL', $$ }
if ($mode eq 'hangs') { sleep 600; exit }
socket my $server, AF_UNIX, SOCK_STREAM, 0 or die $!;
bind $server, sockaddr_un('qmp.sock') or die $!;
listen $server, 1 or die $!;
accept my $client, $server or die $!;
$client->autoflush(1);
exit 4 if $mode eq 'no-greeting';
print $client '{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}' . "\r\n";
exit 5 if $mode eq 'after-greeting';
while (my $line = <$client>) {
  my ($command) = $line =~ /"execute":"([^"]+)"/;
  my ($id) = $line =~ /"id":(\d+)/;
  exit 7 if $command eq 'cont' && $mode eq 'on-cont';
  if ($command eq 'cont' && $mode eq 'refuses-cont') {
    print $client qq({"error": {"class": "GenericError", "desc": "it was told to refuse"}, "id": $id}\r\n);
    next;
  }
  my $answer = $command =~ /^query-(?:cpus-fast|iothreads)$/ ? "[]" : "{}";
  print $client qq({"return": $answer, "id": $id}\r\n);
  exit 6 if $command eq 'qmp_capabilities' && $mode eq 'negotiated';
}
`;

/** A program to be called instead of QEMU, and how it is told what to do. */
export interface BrokenQemu {
  path: string;
  /** From now on guests' processes do this; `null`: what the real QEMU does. */
  breakAt: (breakage: Breakage | null) => Promise<void>;
}

/** Writes the program into a folder that every user can pass through. */
export async function brokenQemu(folder: string): Promise<BrokenQemu> {
  const path = join(folder, 'qemu-system-x86_64');
  const modePath = join(folder, 'breakage');
  const monitorPath = join(folder, 'monitor.pl');
  const script = `#!/bin/sh
# The probe guest and questions about QEMU itself go to the real one.
case "$*" in *--version*|*help*|*isa-debug-exit*) exec qemu-system-x86_64 "$@" ;; esac
mode=$(cat ${modePath})
[ "$mode" = none ] && exec qemu-system-x86_64 "$@"
exec perl ${monitorPath} "$mode"
`;
  await writeFile(monitorPath, `use IO::Handle;\n${monitor}`, { mode: 0o644 });
  await writeFile(path, script);
  await chmod(path, 0o755);
  const breakAt = (breakage: Breakage | null): Promise<void> =>
    writeFile(modePath, breakage ?? 'none', { mode: 0o644 });
  await breakAt(null);
  return { path, breakAt };
}

/** A program that is as old as it says. */
export async function oldQemu(folder: string, version: string): Promise<string> {
  const path = join(folder, 'old-qemu');
  await writeFile(path, `#!/bin/sh\necho "QEMU emulator version ${version}"\n`);
  await chmod(path, 0o755);
  return path;
}
