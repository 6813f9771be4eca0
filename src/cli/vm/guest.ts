// What a guest tells of itself, for people: what it is and has, and with --metrics what it measures.
import type { GuestInfo, GuestMetrics } from '../../api/vm-guest-info.ts';
import { formatBytes, formatMib } from '../../lib/quantity.ts';
import { escapeControls } from '../../lib/terminal-text.ts';
import type { Session } from '../connect/session.ts';
import { withSuggestion } from '../list.ts';
import { printDocument } from '../output/print.ts';
import { renderDetails, renderTable, type Column } from '../output/table.ts';
import { ageOf } from '../view.ts';
import { fetchVms } from './view.ts';

/** Less than this is what asking takes. */
const clockToleranceMs = 2000;

const bytesText = (bytes: number | null): string => (bytes === null ? '' : formatBytes(bytes));
const right = { side: 'right' } as const;

const interfaceColumns: readonly Column<GuestInfo['interfaces'][number]>[] = [
  { header: 'NAME', value: (one) => one.name },
  { header: 'MAC', value: (one) => one.mac ?? '' },
  { header: 'ADDRESSES', value: (one) => one.addresses.map(({ address, prefix }) => `${address}/${prefix}`).join(' ') },
];

const fileSystemColumns: readonly Column<GuestInfo['fileSystems'][number]>[] = [
  { header: 'MOUNTED ON', value: (one) => one.mountPoint },
  { header: 'DEVICE', value: (one) => one.name },
  { header: 'TYPE', value: (one) => one.type },
  { header: 'SIZE', value: (one) => bytesText(one.totalBytes), ...right },
  { header: 'USED', value: (one) => bytesText(one.usedBytes), ...right },
  {
    header: 'USE',
    value: ({ totalBytes, usedBytes }) =>
      totalBytes === null || usedBytes === null || totalBytes === 0
        ? ''
        : `${Math.round((100 * usedBytes) / totalBytes)} %`,
    ...right,
  },
  { header: 'DISK OF THE VM', value: (one) => one.disks.join(' ') },
];

const diskColumns: readonly Column<GuestInfo['disks'][number]>[] = [
  { header: 'DEVICE', value: (one) => one.device },
  { header: 'DISK OF THE VM', value: (one) => one.disk ?? '' },
  { header: 'SIZE', value: (one) => (one.sizeMib === null ? '' : formatMib(one.sizeMib)), ...right },
  { header: 'USED INSIDE', value: (one) => bytesText(one.usedBytes), ...right },
  { header: 'ON THE NODE', value: (one) => bytesText(one.hostBytes), ...right },
];

type Told = { what: string; reason: string }[];

/** One line for each reason: several fields may have the same. */
function untold(missing: Told): string[] {
  return [...Map.groupBy(missing, ({ reason }) => reason)].map(([reason, entries]) =>
    escapeControls(`${entries.map(({ what }) => what).join(', ')}: ${reason}`),
  );
}

export async function showGuest(
  session: Session,
  { metrics: isForMetrics }: { metrics?: boolean },
  name: string,
): Promise<void> {
  const request = { params: { vm: name }, query: { project: session.project } };
  if (isForMetrics) {
    const metrics = await withSuggestion(session, name, fetchVms, () => session.client.vm.guestMetrics(request));
    await printDocument(session, metrics, () => renderMetrics(session, metrics));
    return;
  }
  const guest = await withSuggestion(session, name, fetchVms, () => session.client.vm.guestInfo(request));
  await printDocument(session, guest, () => renderGuest(session, guest));
}

function renderGuest({ terminal }: Session, guest: GuestInfo): string[] {
  const table = <Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string[] =>
    rows.length === 0 ? [] : renderTable(columns, rows, { width: null, style: terminal.style });
  return renderDetails(
    [
      ['Guest agent', guest.agentVersion],
      ['Host name', guest.hostname],
      ['Operating system', guest.os === null ? null : [guest.os.name, guest.os.version].filter(Boolean).join(' ')],
      ['Kernel', guest.os === null ? null : [guest.os.kernel, guest.os.machine].filter(Boolean).join(' ')],
      ['Time zone', zoneText(guest)],
      ['Clock', clockText(guest)],
      ['vCPUs', vcpuText(guest)],
      [
        'Signed in',
        guest.users.map(({ name, loginAt }) => (loginAt ? `${name} (${ageOf(loginAt)})` : name)).join(', '),
      ],
      ['Network interfaces', table(interfaceColumns, guest.interfaces)],
      ['File systems', table(fileSystemColumns, guest.fileSystems)],
      ['Disks', table(diskColumns, guest.disks)],
      ['Not told', untold(guest.missing)],
    ],
    terminal,
  );
}

function zoneText({ timeZone }: GuestInfo): string | null {
  if (timeZone === null) return null;
  const minutes = Math.abs(Math.trunc(timeZone.offsetS / 60));
  const two = (value: number): string => String(value).padStart(2, '0');
  const offset = `${timeZone.offsetS < 0 ? '−' : '+'}${two(Math.floor(minutes / 60))}:${two(minutes % 60)}`;
  return `${timeZone.name ?? ''} (UTC${offset})`.trim();
}

function clockText({ clock }: GuestInfo): string | null {
  if (clock === null) return null;
  const seconds = Math.abs(clock.behindMs) / 1000;
  if (seconds * 1000 < clockToleranceMs) return `${clock.at}, as the node’s`;
  return `${clock.at}, ${seconds.toFixed(0)} s ${clock.behindMs > 0 ? 'behind' : 'ahead of'} the node’s`;
}

function vcpuText({ vcpus }: GuestInfo): string | null {
  if (vcpus === null) return null;
  return vcpus.online === vcpus.total ? String(vcpus.total) : `${vcpus.online} of ${vcpus.total} in use`;
}

const cpuColumns: readonly Column<NonNullable<GuestMetrics['cpus']>[number]>[] = [
  { header: 'VCPU', value: (one) => String(one.cpu), ...right },
  { header: 'USER', value: (one) => secondsText(one.userMs), ...right },
  { header: 'SYSTEM', value: (one) => secondsText(one.systemMs), ...right },
  { header: 'IDLE', value: (one) => secondsText(one.idleMs), ...right },
  { header: 'WAITING FOR DISKS', value: (one) => secondsText(one.ioWaitMs), ...right },
  { header: 'STOLEN', value: (one) => secondsText(one.stealMs), ...right },
];

const diskMetricColumns: readonly Column<NonNullable<GuestMetrics['disks']>[number]>[] = [
  { header: 'DEVICE', value: (one) => one.device },
  { header: 'READS', value: (one) => String(one.reads ?? ''), ...right },
  { header: 'READ', value: (one) => bytesText(one.readBytes), ...right },
  { header: 'WRITES', value: (one) => String(one.writes ?? ''), ...right },
  { header: 'WRITTEN', value: (one) => bytesText(one.writtenBytes), ...right },
];

const trafficColumns: readonly Column<NonNullable<GuestMetrics['interfaces']>[number]>[] = [
  { header: 'NAME', value: (one) => one.name },
  { header: 'RECEIVED', value: ({ traffic }) => formatBytes(traffic.receivedBytes), ...right },
  { header: 'SENT', value: ({ traffic }) => formatBytes(traffic.sentBytes), ...right },
  { header: 'ERRORS', value: ({ traffic }) => String(traffic.receivedErrors + traffic.sentErrors), ...right },
  { header: 'DROPPED', value: ({ traffic }) => String(traffic.receivedDropped + traffic.sentDropped), ...right },
];

function secondsText(ms: number | null): string {
  return ms === null ? '' : `${(ms / 1000).toFixed(1)} s`;
}

function renderMetrics({ terminal }: Session, metrics: GuestMetrics): string[] {
  const { load, memory } = metrics;
  const table = <Row>(columns: readonly Column<Row>[], rows: readonly Row[] | null): string[] =>
    rows === null || rows.length === 0 ? [] : renderTable(columns, rows, { width: null, style: terminal.style });
  return renderDetails(
    [
      ['At', metrics.at],
      ['Load', load && [load.oneMinute, load.fiveMinutes, load.fifteenMinutes].map((one) => one.toFixed(2)).join(' ')],
      ['Memory', memory && bytesText(memory.totalBytes)],
      ['  available', memory && bytesText(memory.availableBytes)],
      ['  free', memory && bytesText(memory.freeBytes)],
      ['  caches', memory && bytesText(memory.cacheBytes)],
      ['  swapped in, out', memory && `${bytesText(memory.swappedInBytes)}, ${bytesText(memory.swappedOutBytes)}`],
      ['vCPUs', table(cpuColumns, metrics.cpus)],
      ['Disks', table(diskMetricColumns, metrics.disks)],
      ['Network interfaces', table(trafficColumns, metrics.interfaces)],
      ['Not told', untold(metrics.missing)],
    ],
    terminal,
  );
}
